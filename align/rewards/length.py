"""Reward by length: linear in tokens or characters; a negative slope punishes long completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from align.records import Prompt, Sample, Score
from align.rewards.per_sample import PerSample, failure


@dataclass(frozen=True)
class Length:
    """`slope` x length."""

    unit: Literal["tokens", "characters"] = "tokens"
    """`tokens` counts what the policy wrote, its end-of-sequence token included; tool output does
    not count."""
    slope: float = 1.0
    """Reward for each unit."""

    def open(self) -> PerSample:
        """Nothing to load."""

        def score(prompt: Prompt, sample: Sample) -> Score:
            length = count_tokens(sample) if self.unit == "tokens" else len(sample.text)
            if length is None:
                return failure(sample, "length: the sample came without tokens to count")
            return Score(sample.sample_id, self.slope * length)

        return PerSample(score)


def count_tokens(sample: Sample) -> int | None:
    """Tokens that the policy wrote; None where only the text is known (`align serve-reward`)."""
    if sample.text and not sample.completion_ids:
        return None
    return sum(sample.loss_mask)
