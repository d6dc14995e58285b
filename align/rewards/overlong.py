"""A penalty for length near the limit (DAPO, soft overlong punishment, arXiv:2503.14476 eq. 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from align.records import Prompt, Sample, Score
from align.rewards.length import count_tokens
from align.rewards.per_sample import PerSample, failure


@dataclass(frozen=True)
class Overlong:
    """0 up to `longest` - `margin` tokens, then linear to -`penalty` at `longest`, and no lower.

    With 20480 and 4096: 16000 -> 0, 18432 -> -0.5, 20480 -> -1, 21000 -> -1.
    """

    longest: Annotated[int, Gt(0)]
    """Tokens at which the whole penalty is due."""
    margin: Annotated[int, Gt(0)]
    """Tokens before that over which it grows."""
    penalty: Annotated[float, Ge(0)] = 1.0

    def __post_init__(self) -> None:
        if self.margin > self.longest:
            raise ValueError(f"margin = {self.margin} is more than longest = {self.longest}")

    def open(self) -> PerSample:
        """Nothing to load."""

        def score(prompt: Prompt, sample: Sample) -> Score:
            length = count_tokens(sample)
            if length is None:
                return failure(sample, "overlong: the sample came without tokens to count")
            over = length - (self.longest - self.margin)
            share = min(max(over / self.margin, 0.0), 1.0)
            return Score(sample.sample_id, -self.penalty * share if share else 0.0)

        return PerSample(score)
