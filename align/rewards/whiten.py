"""A reward with mean 0 and standard deviation 1: sources of different scale can then be summed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from align.rewards.nested import Inner, build_inner
from align.rewards.rescaled import Rescaled, Values


@dataclass(frozen=True)
class Whiten:
    """value = (r - mean) / std (of the population); 0 where all are equal."""

    of: Inner
    over: Literal["group", "shard"] = "group"
    """The samples of one prompt, or all that are scored in one call: in a run the 256 prompts of a
    shard, whatever the number of workers. A scorer never sees a whole data set; for fixed constants
    use weights."""

    def __post_init__(self) -> None:
        build_inner(self.of, "of")

    def open(self) -> Rescaled:
        """Opens the reward."""
        return Rescaled.of(self.of, self._whiten)

    def _whiten(self, values: Values) -> Values:
        if self.over == "group":
            return [whitened(group, group) for group in values]
        everything = [value for group in values for value in group]
        return [whitened(group, everything) for group in values]


def whitened(values: list[float], among: list[float]) -> list[float]:
    """The values in standard deviations from the mean of `among`."""
    if not values:
        return []
    mean, spread = statistics.fmean(among), statistics.pstdev(among)
    return [(value - mean) / spread if spread > 0 else 0.0 for value in values]
