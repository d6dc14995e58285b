"""What selection and pairing rules share: which samples of a prompt may be used, a fair order, and
how a rule says more than what it kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from align.records import Sample, Score

Item = TypeVar("Item")


@runtime_checkable
class Uniform(Protocol):
    """The one thing that a rule asks of its random generator (`random.Random` has it)."""

    def random(self) -> float:
        """The next draw from U[0, 1)."""
        ...


@dataclass(frozen=True)
class Explained:
    """What a selection rule kept of one prompt, and what is to be known about it."""

    kept: list[int]
    """Indices, as the rule itself returns them."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Added up over prompts."""
    shares: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    """(numerator, denominator), each added up over prompts before they are divided."""


@runtime_checkable
class Explains(Protocol):
    """A selection rule that counts or measures what it does; others just return what they keep."""

    def explain(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Uniform
    ) -> Explained:
        """The kept samples of the same call of the rule, with its counts and measures."""
        ...


def usable(
    samples: Sequence[Sample], scores: Sequence[Score], *, keep_truncated: bool
) -> dict[int, float]:
    """Index -> score of the samples that have a finite one and, unless kept, a natural end; in
    order.

    Raises ValueError where the two columns are not joined: lengths, ids, or more than one prompt.
    """
    if [sample.sample_id for sample in samples] != [score.sample_id for score in scores]:
        raise ValueError("samples and scores must name the same sample ids in the same order")
    if len({sample.prompt_id for sample in samples}) > 1:
        raise ValueError("a rule sees the samples of one prompt at a time")
    return {
        index: float(score.value)
        for index, (sample, score) in enumerate(zip(samples, scores, strict=True))
        if score.value is not None
        and math.isfinite(score.value)
        and (keep_truncated or sample.finish != "length")
    }


def shuffled(items: Sequence[Item], rng: Uniform) -> list[Item]:
    """The items in random order (Fisher-Yates, one draw for each item but one)."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order
