"""Anna Karenina sampling (ALGORITHMS 7.5): successes are alike, failures are diverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.candidates import Explained, Uniform, usable
from align.records import Sample, Score


@dataclass(frozen=True)
class AnnaKarenina:
    """Keeps the first few right samples of a prompt and its wrong ones, in the order given: the
    select stage shuffles them, which for samples of one law is as good as the order of sampling.

    This lowers the share of positives, most on easy prompts, towards what TOPR learns best from.
    """

    max_pos_per_prompt: int | None = 1
    """At most this many positives; null keeps all."""
    max_neg_per_prompt: int | None = None
    """At most this many negatives; null keeps all."""
    stop_at_first_positive: bool = False
    """Keep nothing that was drawn after the first positive."""
    threshold: float = 0.0
    """A sample is positive if its score is above this: fits right 1 with wrong -1 or 0."""
    all_right: Literal["keep", "drop"] = "keep"
    """Prompts all of whose samples are positive: they teach little."""
    all_wrong: Literal["keep", "drop"] = "keep"
    """Prompts without a positive: their negatives make malformed answers rarer."""
    truncated: Literal["drop", "negative", "keep"] = "drop"
    """Samples cut at the length limit: left out, negatives whatever their score (say
    `train.advantage.truncated: negative` too), or taken by their score.
    """

    def __post_init__(self) -> None:
        for name, limit in (
            ("max_pos_per_prompt", self.max_pos_per_prompt),
            ("max_neg_per_prompt", self.max_neg_per_prompt),
        ):
            if limit is not None and limit < 0:
                raise ValueError(f"{name} must be at least 0, not {limit}")
        if self.max_pos_per_prompt == self.max_neg_per_prompt == 0:
            raise ValueError("max_pos_per_prompt and max_neg_per_prompt are both 0: nothing stays")

    def __call__(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Uniform
    ) -> list[int]:
        """Indices kept, ascending; draws nothing."""
        return self.explain(samples, scores, rng).kept

    def explain(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Uniform
    ) -> Explained:
        """The same, with the positives and negatives kept and the prompts that are all one kind."""
        values = usable(samples, scores, keep_truncated=self.truncated != "drop")
        signs = {index: self._is_positive(samples[index], values[index]) for index in values}
        is_all_right = bool(signs) and all(signs.values())
        is_all_wrong = bool(signs) and not any(signs.values())
        counts = {"all_right": int(is_all_right), "all_wrong": int(is_all_wrong)}
        if (is_all_right and self.all_right == "drop") or (
            is_all_wrong and self.all_wrong == "drop"
        ):
            signs = {}
        kept: list[int] = []
        taken = {True: 0, False: 0}
        limits = {True: self.max_pos_per_prompt, False: self.max_neg_per_prompt}
        for index, is_positive in signs.items():
            limit = limits[is_positive]
            if limit is None or taken[is_positive] < limit:
                taken[is_positive] += 1
                kept.append(index)
            if is_positive and self.stop_at_first_positive:
                break
        return Explained(kept, counts | {"positives": taken[True], "negatives": taken[False]})

    def _is_positive(self, sample: Sample, value: float) -> bool:
        is_cut = self.truncated == "negative" and sample.finish == "length"
        return value > self.threshold and not is_cut
