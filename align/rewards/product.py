"""The product of several rewards, e.g. correctness times brevity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from align.records import Score
from align.rewards.nested import Inner, build_inner, failed_within, label_of, parts_under
from align.rewards.protocol import Group, Scorer


@dataclass(frozen=True)
class Product:
    """value = product of the values; a sample that one of them cannot score fails."""

    of: Annotated[tuple[Inner, ...], MinLen(2)]
    """Rewards with their options, and labels where two have one name."""

    def __post_init__(self) -> None:
        labels = [label_of(section) for section in self.of]
        if len(set(labels)) < len(labels):
            raise ValueError(f"parts have equal names ({', '.join(labels)}); give each a label")
        for section in self.of:
            build_inner(section, "of")

    def open(self) -> ProductScorer:
        """Opens all; those already open are closed again where one fails."""
        with ExitStack() as stack:
            opened = dict[str, Scorer]()
            for section in self.of:
                scorer = build_inner(section, "of").open()
                stack.callback(scorer.close)
                opened[label_of(section)] = scorer
            return ProductScorer(opened, stack.pop_all())


@dataclass(frozen=True)
class ProductScorer:
    """The opened factors by label."""

    opened: dict[str, Scorer]
    closing: ExitStack

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Products, with each factor among the parts."""
        scored = {label: scorer.score(groups) for label, scorer in self.opened.items()}
        found: list[list[Score]] = []
        for g, group in enumerate(groups):
            found.append([])
            for i, sample in enumerate(group.samples):
                factors = {label: scores[g][i] for label, scores in scored.items()}
                parts = dict[str, float | None]()
                for label, factor in factors.items():
                    parts |= parts_under(label, factor)
                values = [factor.value for factor in factors.values() if factor.value is not None]
                if len(values) == len(factors):
                    found[-1].append(Score(sample.sample_id, math.prod(values), parts))
                    continue
                failed = next(label for label, factor in factors.items() if factor.value is None)
                error = failed_within(sample, failed, factors[failed]).error
                found[-1].append(Score(sample.sample_id, None, parts, error=error))
        return found

    def close(self) -> None:
        """Closes every factor."""
        self.closing.close()
