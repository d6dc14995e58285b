"""Neighbours meet two by two (RSO's `first-round`; ALGORITHMS 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from align.candidates import Uniform
from align.pairing.contest import Contest, Preferences, Truncated, check_margin
from align.records import Pair, Sample, Score


@dataclass(frozen=True)
class FirstRound:
    """n // 2 pairs of n samples, labelled by score, or by the judge where there is one; ties make
    none.
    """

    min_margin: float = 0.0
    """Couples whose scores (with a judge: logit of the preference) differ by this or less make no
    pair."""
    truncated: Truncated = "drop"
    """Samples cut at the length limit: `drop`, `rejected` (never the chosen side) or `keep`."""

    def __post_init__(self) -> None:
        check_margin(self.min_margin)

    def __call__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        rng: Uniform,
    ) -> list[Pair]:
        """The pairs in the order of the couples; the last of an odd number stays alone."""
        contest = Contest.of(samples, scores, preferences, self.truncated)
        order = list(contest.values)
        met = (
            contest.pair(first, second, self.min_margin)
            for first, second in zip(order[::2], order[1::2], strict=False)
        )
        return [pair for pair in met if pair is not None]
