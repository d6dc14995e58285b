"""Pairs with chance in them (RLHF Workflow's `max_random` and `random`; ALGORITHMS 6.2).

The released loop takes the first samples instead of drawing them. Its samples are alike, so the law
is the same; with a mixture of samplers the first ones would all be of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from align.candidates import Uniform, shuffled
from align.pairing.contest import Contest, Preferences, Truncated, check_margin
from align.records import Pair, Sample, Score


@dataclass(frozen=True)
class MaxRandom:
    """At most one pair a prompt: the best sample against one of the others, drawn at random.

    With a judge, a sample's score is its mean win rate over the others.
    """

    min_margin: float = 0.0
    """The pair is made only if the scores differ by more than this."""
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
        """The pair, or none where the one drawn has the same score or tokens, or too small a
        margin.
        """
        contest = Contest.ranked(samples, scores, preferences, self.truncated)
        allowed = [index for index in contest.values if contest.can_be_chosen(index)]
        if not allowed or len(contest.values) < 2:
            return []
        best = max(allowed, key=lambda index: contest.values[index])
        other = shuffled([index for index in contest.values if index != best], rng)[0]
        pair = contest.pair(best, other, self.min_margin)
        return [] if pair is None else [pair]


@dataclass(frozen=True)
class RandomPair:
    """At most one pair a prompt: two samples drawn at random, labelled by score, or by the judge
    where there is one.
    """

    min_margin: float = 0.0
    """The pair is made only if the scores (with a judge: logit of the preference) differ by more
    than this."""
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
        """The pair, or none where the two drawn are equal in score or tokens."""
        contest = Contest.of(samples, scores, preferences, self.truncated)
        drawn = shuffled(list(contest.values), rng)[:2]
        if len(drawn) < 2:
            return []
        pair = contest.pair(drawn[0], drawn[1], self.min_margin)
        return [] if pair is None else [pair]
