"""Self-consistency: which answer most samples of a prompt give (ALGORITHMS 7.6: maj@K)."""

from __future__ import annotations

from collections.abc import Sequence


def vote(
    answers: Sequence[str | None], right: Sequence[bool], weights: Sequence[float] | None = None
) -> float:
    """Whether the answer with the greatest total weight is right: 1 or 0, between them where
    answers tie (one of them is then picked at random), 0 where no sample answers.

    An answer is right where a sample that gives it is. Weights are 1 where none are given.

        >>> vote(["4", "5", "5"], [True, False, False])
        0.0
        >>> vote(["4", "5", "5"], [True, False, False], [0.9, 0.2, 0.3])
        1.0
    """
    totals: dict[str, float] = {}
    is_right: dict[str, bool] = {}
    shares = [1.0] * len(answers) if weights is None else weights
    for answer, is_own, weight in zip(answers, right, shares, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
            is_right[answer] = is_right.get(answer, False) or is_own
    if not totals:
        return 0.0
    highest = max(totals.values())
    tied = [answer for answer, total in totals.items() if total == highest]
    return sum(is_right[answer] for answer in tied) / len(tied)
