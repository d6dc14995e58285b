"""Every pair of samples that differ in score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from align.candidates import Uniform, shuffled
from align.pairing.contest import Contest, Preferences, Truncated, check_margin
from align.records import Pair, Sample, Score


@dataclass(frozen=True)
class AllPairs:
    """Up to n (n - 1) / 2 pairs a prompt; a prompt with many samples then weighs more than one with
    few.
    """

    max_pairs: int | None = None
    """At most this many pairs a prompt, drawn at random; null makes them all."""
    min_margin: float = 0.0
    """Pairs whose scores (with a judge: logit of the preference) differ by this or less are left
    out."""
    truncated: Truncated = "drop"
    """Samples cut at the length limit: `drop`, `rejected` (never the chosen side) or `keep`."""

    def __post_init__(self) -> None:
        check_margin(self.min_margin)
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ValueError(f"max_pairs must be at least 1, not {self.max_pairs}")

    def __call__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        rng: Uniform,
    ) -> list[Pair]:
        """The pairs, in the samples' order, or in random order where they are limited."""
        contest = Contest.of(samples, scores, preferences, self.truncated)
        met = (
            contest.pair(first, second, self.min_margin)
            for first, second in combinations(contest.values, 2)
        )
        pairs = [pair for pair in met if pair is not None]
        return pairs if self.max_pairs is None else shuffled(pairs, rng)[: self.max_pairs]
