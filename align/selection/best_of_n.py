"""Best-of-n selection: keep a prompt's highest scores (ALGORITHMS 5: RAFT, ReST, STaR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.candidates import Uniform, usable
from align.records import Sample, Score


@dataclass(frozen=True)
class BestOfN:
    """Keeps the best samples of each prompt, best first; ties are broken at random.

    Samples with the same tokens count once. A prompt may yield fewer than `keep`, or nothing.
    """

    keep: int = 1
    """How many samples a prompt, >= 1."""
    min_score: float | None = None
    """Keep only scores of at least this (ReST: a threshold; STaR: 1 with a large `keep`)."""
    all_equal: Literal["keep", "skip"] = "keep"
    """What a prompt yields whose samples (two or more) all have the same score: they rank
    nothing."""
    truncated: Literal["drop", "keep"] = "drop"
    """Whether samples cut at the length limit may be kept."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, not {self.keep}")

    def __call__(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Uniform
    ) -> list[int]:
        """Indices kept, best first."""
        values = usable(samples, scores, keep_truncated=self.truncated == "keep")
        if self.all_equal == "skip" and len(values) > 1 and len(set(values.values())) == 1:
            return []
        ranked = sorted(values, key=lambda index: -values[index])
        kept: dict[tuple[int, ...], int] = {}
        for index in ranked:
            if self.min_score is None or values[index] >= self.min_score:
                kept.setdefault(samples[index].completion_ids, index)
        return list(kept.values())[: self.keep]
