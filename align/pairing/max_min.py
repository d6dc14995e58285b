"""The best sample against the worst (RLHF Workflow's `max_min` and `max_min_p`; ALGORITHMS 6.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from align.candidates import Uniform
from align.pairing.contest import Contest, Preferences, Truncated, check_margin
from align.records import Pair, Sample, Score


def best_and_worst(
    values: Sequence[float], winners: Sequence[int] | None = None
) -> tuple[int, int] | None:
    """Places of the highest and the lowest value, the first of equals; None where none is higher.

    `winners` are the places that the highest may come from (default: all).

        >>> best_and_worst([0.2, 1.1, -0.4, 1.1])
        (1, 2)
    """
    allowed = range(len(values)) if winners is None else winners
    if not allowed or not len(values):
        return None
    best = max(allowed, key=lambda place: values[place])
    worst = min(range(len(values)), key=lambda place: values[place])
    return (best, worst) if values[best] > values[worst] else None


@dataclass(frozen=True)
class MaxMin:
    """At most one pair a prompt: the best against the worst.

    Of equal scores the first sample is taken; the pair stage shuffles each prompt's samples by its
    seed. With a judge, a sample's score is its mean win rate over the others.
    """

    length_penalty: float = 0.0
    """Taken off the score for each completion token (not character), >= 0."""
    min_margin: float = 0.0
    """The pair is made only if the penalised scores differ by more than this."""
    truncated: Truncated = "drop"
    """Samples cut at the length limit: `drop`, `rejected` (never the chosen side) or `keep`."""

    def __post_init__(self) -> None:
        check_margin(self.min_margin)
        if not 0 <= self.length_penalty < math.inf:
            raise ValueError(f"length_penalty must be at least 0, not {self.length_penalty}")

    def __call__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        rng: Uniform,
    ) -> list[Pair]:
        """The pair, or none for equal scores, equal tokens or too small a margin."""
        contest = Contest.ranked(
            samples, scores, preferences, self.truncated, length_penalty=self.length_penalty
        )
        order = list(contest.values)
        places = best_and_worst(
            [contest.values[index] for index in order],
            [place for place, index in enumerate(order) if contest.can_be_chosen(index)],
        )
        if places is None:
            return []
        pair = contest.pair(order[places[0]], order[places[1]], self.min_margin)
        return [] if pair is None else [pair]
