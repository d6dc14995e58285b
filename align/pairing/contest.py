"""The samples of one prompt as contestants: who may meet, who wins, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.candidates import usable
from align.records import Pair, Sample, Score

Truncated = Literal["drop", "rejected", "keep"]
"""Samples cut at the length limit: out of every pair, only ever rejected, or treated like any
other."""
Preferences = Sequence[Sequence[float]]
"""P[i][j]: the probability that sample i is preferred to sample j; NaN where the judge failed."""

CERTAIN = 1e-6
"""Probabilities are kept this far from 0 and 1, so that their logit is finite."""


@dataclass(frozen=True)
class Contest:
    """One prompt's usable samples. Built by `Contest.of`."""

    samples: Sequence[Sample]
    values: dict[int, float]
    """Index -> score, length penalty taken off."""
    preferences: Preferences | None
    truncated: Truncated

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        truncated: Truncated,
        *,
        length_penalty: float = 0.0,
    ) -> Contest:
        """The contest among samples with a score; raises ValueError for a matrix of another
        size.
        """
        values = usable(samples, scores, keep_truncated=truncated != "drop")
        if preferences is not None and {len(preferences), *map(len, preferences)} != {len(samples)}:
            raise ValueError(f"the preferences of {len(samples)} samples are a square of that size")
        penalised = {
            index: value - length_penalty * len(samples[index].completion_ids)
            for index, value in values.items()
        }
        return cls(samples, penalised, preferences, truncated)

    @classmethod
    def ranked(
        cls,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        truncated: Truncated,
        *,
        length_penalty: float = 0.0,
    ) -> Contest:
        """A contest in which every sample has one value, for rules that ask who is best: its score
        or, with a judge, its mean win rate over the others.
        """
        if preferences is not None:
            scores = _win_rates(samples, scores, preferences)
        return cls.of(samples, scores, None, truncated, length_penalty=length_penalty)

    def margin(self, first: int, second: int) -> float:
        """Above 0 where the first wins, below where the second does, 0 for a tie or a failed
        judgement.

        The score difference; with a preference matrix logit P, which is that difference under
        Bradley-Terry.
        """
        if self.preferences is None:
            return self.values[first] - self.values[second]
        share = self.preferences[first][second]
        if math.isnan(share):
            return 0.0
        share = min(max(share, CERTAIN), 1 - CERTAIN)
        return math.log(share / (1 - share))

    def can_be_chosen(self, index: int) -> bool:
        """Whether the sample may be held up as the better one."""
        return self.truncated != "rejected" or self.samples[index].finish != "length"

    def pair(self, first: int, second: int, min_margin: float = 0.0) -> Pair | None:
        """The winner over the loser; None for a margin not above `min_margin` or equal tokens."""
        margin = self.margin(first, second)
        chosen, rejected = (first, second) if margin > 0 else (second, first)
        if abs(margin) <= min_margin:
            return None
        return self.pair_by(chosen, rejected, abs(margin))

    def pair_by(self, chosen: int, rejected: int, margin: float) -> Pair | None:
        """The pair as told; None where its tokens are equal or its chosen side may not be
        chosen.
        """
        better, worse = self.samples[chosen], self.samples[rejected]
        if better.completion_ids == worse.completion_ids or not self.can_be_chosen(chosen):
            return None
        return Pair(better.sample_id, worse.sample_id, margin)


def check_margin(min_margin: float) -> None:
    """Raises ValueError for a margin below 0."""
    if not min_margin >= 0:
        raise ValueError(f"min_margin must be at least 0, not {min_margin}")


def _win_rates(
    samples: Sequence[Sample], scores: Sequence[Score], preferences: Preferences
) -> list[Score]:
    """Each scored sample's mean probability of being preferred to another; None where never
    judged.
    """
    Contest.of(samples, scores, preferences, "keep")  # refuses a matrix of another size
    rates: list[Score] = []
    for index, score in enumerate(scores):
        judged = [
            share
            for other, share in enumerate(preferences[index])
            if other != index and not math.isnan(share)
        ]
        is_rated = score.value is not None and len(judged) > 0
        rates.append(Score(score.sample_id, sum(judged) / len(judged) if is_rated else None))
    return rates
