"""Two values instead of many: the discrete metric reward of MT-R1-Zero (ALGORITHMS 12.19) is
`{name: threshold, of: {name: bleu}, at: 0.3, above: 2, below: -1.5}`.
"""

from __future__ import annotations

from dataclasses import dataclass

from align.rewards.nested import Inner, build_inner
from align.rewards.rescaled import Rescaled, Values


@dataclass(frozen=True)
class Threshold:
    """value = `above` where the reward is at least `at`, else `below`."""

    of: Inner
    at: float
    above: float = 1.0
    below: float = 0.0

    def __post_init__(self) -> None:
        build_inner(self.of, "of")

    def open(self) -> Rescaled:
        """Opens the reward."""
        return Rescaled.of(self.of, self._decide)

    def _decide(self, values: Values) -> Values:
        return [[self.above if v >= self.at else self.below for v in group] for group in values]
