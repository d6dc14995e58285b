"""What a reward is: a frozen config whose `open` returns a scorer of whole prompt groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from align.records import Prompt, Sample, Score


@dataclass(frozen=True, slots=True)
class Group:
    """All samples of one prompt."""

    prompt: Prompt
    samples: tuple[Sample, ...]


class Scorer(Protocol):
    """An opened reward source."""

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One score a sample, same order. A sample that cannot be scored gets `value=None` and an
        `error`.
        """
        ...

    def close(self) -> None:
        """Frees models and processes."""
        ...


class Reward(Protocol):
    """A frozen dataclass whose fields are the recipe's options."""

    def open(self) -> Scorer:
        """Loads what is heavy. A verifier runs its golden cases here and raises `SetupError` if one
        fails (I6).
        """
        ...


class Judge(Protocol):
    """A scorer that also compares the samples of a prompt with each other: `pair.judge`."""

    def preferences(self, groups: Sequence[Group]) -> list[list[list[float]]]:
        """For each group the matrix p with p[i][j] = P(sample i preferred to sample j), 0.5 on the
        diagonal.

        A comparison that could not be made is NaN, in both triangles.
        """
        ...

    def close(self) -> None:
        """Frees models and processes."""
        ...
