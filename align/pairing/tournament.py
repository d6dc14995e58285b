"""A knock-out tournament: winners meet again until one is left (RSO; ALGORITHMS 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from align.candidates import Uniform
from align.pairing.contest import Contest, Preferences, Truncated
from align.records import Pair, Sample, Score


def play(order: Sequence[int], margin: Callable[[int, int], float]) -> list[tuple[int, int, float]]:
    """(winner, loser, margin) of every match, round by round, among contestants in the order given.

    An even number n plays n - 1 matches. Of an odd number the last is left out from the start; in a
    later round of an odd number the last goes on without a match. Of a tie (margin 0, and margin 0
    in the result) the first goes on.

        >>> scores = [0.3, 0.9, 0.1, 0.5]
        >>> [match[:2] for match in play(range(4), lambda one, two: scores[one] - scores[two])]
        [(1, 0), (3, 2), (1, 3)]
    """
    matches: list[tuple[int, int, float]] = []
    standing = list(order[: len(order) // 2 * 2])
    while len(standing) > 1:
        bye = standing[-1:] if len(standing) % 2 else []
        winners: list[int] = []
        for first, second in zip(standing[::2], standing[1::2], strict=False):
            lead = margin(first, second)
            winner, loser = (first, second) if lead >= 0 else (second, first)
            matches.append((winner, loser, abs(lead)))
            winners.append(winner)
        standing = winners + bye
    return matches


@dataclass(frozen=True)
class Tournament:
    """n - 1 pairs of n samples in random order, labelled by score, or by the judge where there is
    one.

    Ties and samples with equal tokens meet but make no pair.
    """

    truncated: Truncated = "drop"
    """Samples cut at the length limit: `drop`, `rejected` (never the chosen side) or `keep`."""

    def __call__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        rng: Uniform,
    ) -> list[Pair]:
        """The pairs in the order of the matches."""
        contest = Contest.of(samples, scores, preferences, self.truncated)
        met = (
            contest.pair_by(winner, loser, margin)
            for winner, loser, margin in play(list(contest.values), contest.margin)
            if margin > 0
        )
        return [pair for pair in met if pair is not None]
