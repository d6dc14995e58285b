"""A reward whose values are kept within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from align.rewards.nested import Inner, build_inner
from align.rewards.rescaled import Rescaled, Values


@dataclass(frozen=True)
class Clip:
    """value = min(max(value, low), high)."""

    of: Inner
    low: float | None = None
    """No bound where absent."""
    high: float | None = None

    def __post_init__(self) -> None:
        build_inner(self.of, "of")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}")

    def open(self) -> Rescaled:
        """Opens the reward."""
        return Rescaled.of(self.of, self._clip)

    def _clip(self, values: Values) -> Values:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return [[min(max(value, low), high) for value in group] for group in values]
