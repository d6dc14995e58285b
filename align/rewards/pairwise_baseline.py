"""Pointwise score from a pairwise model: r = logit p(x, y, y_b) against one baseline completion
(RSO eq. 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from align.records import Sample, Score, derive_seed
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.reading import Reading

if TYPE_CHECKING:
    from align.rewards.comparer import Comparer

CLAMP = 1e-6
"""p is kept in [CLAMP, 1 - CLAMP], so that the score stays within +-13.8 (ALGORITHMS 2.2)."""


@dataclass(frozen=True)
class PairwiseBaseline:
    """The baseline is `Prompt.meta["baseline"]` (a text) where there is one, else one sample of the
    group drawn with `seed`. The paper takes one random sample of the SFT policy, which in the first
    iteration is the same thing; scores are comparable within a prompt, not between prompts. The
    baseline itself scores 0.
    """

    path: str
    """Hub id or folder of a preference model, see `pairwise_model`."""
    seed: int = 0
    """Draws the baseline, together with the prompt's id."""
    max_length: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1)] = 8
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    add_generation_prompt: bool = True
    temperature: Annotated[float, Gt(0)] = 1.0
    slot: str = "RESPONSE"

    def open(self) -> BaselineScorer:
        """Loads the model; `SetupError` where `A` or `B` is not one token."""
        from align.rewards.comparer import Comparer

        reading = Reading(
            path=self.path,
            max_length=self.max_length,
            batch_size=self.batch_size,
            dtype=self.dtype,
            chat_template=self.chat_template,
            add_generation_prompt=self.add_generation_prompt,
            temperature=self.temperature,
            slot=self.slot,
        )
        return BaselineScorer(Comparer(reading), self.seed)


class BaselineScorer:
    """Compares every sample with its group's baseline."""

    def __init__(self, comparer: Comparer, seed: int) -> None:
        self._comparer, self._seed = comparer, seed

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Log-odds of being preferred to the baseline."""
        items = [
            (group.prompt, sample.text, baseline)
            for group in groups
            if group.samples
            for baseline in [pick_baseline(group, self._seed)]
            for sample in group.samples
        ]
        results = iter(self._comparer.compare(items))
        return [[_log_odds(sample, next(results)) for sample in group.samples] for group in groups]

    def close(self) -> None:
        """Frees the model."""
        self._comparer.close()


def pick_baseline(group: Group, seed: int) -> str:
    """The text to compare with; the draw does not depend on the order of the samples."""
    meta = group.prompt.meta
    given = meta.get("baseline") if isinstance(meta, dict) else None
    if isinstance(given, str):
        return given
    ordered = sorted(group.samples, key=lambda sample: sample.sample_id)
    draw = derive_seed("pairwise_baseline", seed, group.prompt.prompt_id)
    return ordered[draw % len(ordered)].text


def log_odds(p: float) -> float:
    """Logit of p clamped: 0.652751 -> 0.631152; 0 -> -13.815510."""
    clamped = min(max(p, CLAMP), 1.0 - CLAMP)
    return math.log(clamped) - math.log1p(-clamped)


def _log_odds(sample: Sample, result: float | str) -> Score:
    if isinstance(result, str):
        return failure(sample, result)
    return Score(sample.sample_id, log_odds(result), {"preferred": result})
