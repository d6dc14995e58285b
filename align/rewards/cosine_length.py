"""Correctness scaled by length along half a cosine (open-r1; ALGORITHMS 9, open-rs).

    r = low + (high - low) (1 + cos(pi min(length / longest, 1))) / 2

A right answer is worth `right_short` at length 0 and `right_long` at `longest`; a wrong one
`wrong_short` and `wrong_long`, so that a wrong answer had better think longer. Beyond `longest` the
released code's cosine turns back; ours stays at its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from align.records import Sample, Score
from align.rewards.length import count_tokens
from align.rewards.nested import (
    Inner,
    build_inner,
    failed_within,
    label_of,
    pairs_of,
    parts_under,
)
from align.rewards.per_sample import failure
from align.rewards.protocol import Group, Scorer


@dataclass(frozen=True)
class CosineLength:
    """The defaults are open-r1's."""

    of: Inner
    """The reward that says whether a sample is right."""
    longest: Annotated[int, Gt(0)] = 1000
    at: float = 0.5
    """Right is who gets at least this."""
    right_short: float = 1.0
    right_long: float = 0.5
    wrong_short: float = -1.0
    wrong_long: float = -0.5
    unit: Literal["tokens", "characters"] = "tokens"
    """open-r1 counts characters."""

    def __post_init__(self) -> None:
        build_inner(self.of, "of")

    def open(self) -> CosineScorer:
        """Opens the reward."""
        return CosineScorer(self, build_inner(self.of, "of").open())


@dataclass(frozen=True)
class CosineScorer:
    """Asks the reward, then scales."""

    config: CosineLength
    inner: Scorer

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Scaled values, the correctness among the parts."""
        return [
            [self._score(sample, score) for sample, score in pairs]
            for pairs in pairs_of(groups, self.inner.score(groups))
        ]

    def close(self) -> None:
        """Closes the reward."""
        self.inner.close()

    def _score(self, sample: Sample, score: Score) -> Score:
        config = self.config
        if score.value is None:
            return failed_within(sample, label_of(config.of), score)
        length = count_tokens(sample) if config.unit == "tokens" else len(sample.text)
        if length is None:
            return failure(sample, "cosine_length: the sample came without tokens to count")
        is_right = score.value >= config.at
        short = config.right_short if is_right else config.wrong_short
        long = config.right_long if is_right else config.wrong_long
        wave = (1 + math.cos(math.pi * min(length / config.longest, 1.0))) / 2
        parts = parts_under(label_of(config.of), score)
        return Score(sample.sample_id, long + (short - long) * wave, parts)
