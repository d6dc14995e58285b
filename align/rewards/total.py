"""The weighted sum of several rewards, for use inside another reward; at the top of a recipe a
`score` that is a list says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from align.recipe.values import is_number
from align.rewards.nested import Inner, build_inner, label_of
from align.rewards.protocol import Reward
from align.rewards.weighted import Weighted, WeightedScorer


@dataclass(frozen=True)
class Total:
    """value = sum of weight x value."""

    of: Annotated[tuple[Inner, ...], MinLen(1)]
    """Rewards with their options, each with a `weight` (default 1) and a `label` if it needs
    one."""

    def __post_init__(self) -> None:
        self._weighted()

    def open(self) -> WeightedScorer:
        """Opens all."""
        return self._weighted().open()

    def _weighted(self) -> Weighted:
        sources: list[tuple[str, float, Reward]] = []
        for section in self.of:
            weight = section.get("weight", 1.0)
            if not is_number(weight):
                raise ValueError(f"the weight of {label_of(section)} is {weight!r}, not a number")
            inner = {key: value for key, value in section.items() if key != "weight"}
            sources.append((label_of(section), float(weight), build_inner(inner, "of")))
        return Weighted(tuple(sources))
