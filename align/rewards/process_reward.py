"""Process reward: a score for every step, and their aggregate (ALGORITHMS 12.10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from align.records import Sample, Score
from align.rewards.patterns import compile_pattern
from align.rewards.per_sample import failure
from align.rewards.protocol import Group

if TYPE_CHECKING:
    from align.rewards.steps import Step, StepReader


@dataclass(frozen=True)
class ProcessReward:
    """Step scores lie in `Score.spans` where the model's tokenizer is the policy's; their number
    and their smallest in `parts`.
    """

    path: str
    """Hub id or folder of a sequence classifier with one label, read at each step's last token."""
    separator: str = r"\n\n"
    """Regular expression between steps."""
    aggregate: Literal["mean", "min", "product", "last"] = "min"
    activation: Literal["sigmoid", "none"] = "sigmoid"
    """Of a step's logit: `sigmoid` makes it a probability, which `product` needs."""
    policy: str | None = None
    """As in `reward_model`; filled in by the stage."""
    max_length: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1)] = 16
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.aggregate == "product" and self.activation == "none":
            raise ValueError("a product of raw logits means nothing; use activation: sigmoid")
        compile_pattern(self.separator, "separator")

    def open(self) -> ProcessScorer:
        """Loads the model; `SetupError` where it has no trained head."""
        from align.rewards.steps import StepOptions, StepReader

        options = StepOptions(
            path=self.path,
            separator=compile_pattern(self.separator, "separator"),
            policy=self.policy,
            max_length=self.max_length,
            batch_size=self.batch_size,
            dtype=self.dtype,
            chat_template=self.chat_template,
        )
        return ProcessScorer(self, StepReader(options))


class ProcessScorer:
    """An opened process reward."""

    def __init__(self, config: ProcessReward, reader: StepReader) -> None:
        self._config, self._reader = config, reader

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """The aggregate of each sample's steps."""
        items = [(group.prompt, sample) for group in groups for sample in group.samples]
        read = iter(self._reader.read(items))
        return [[self._score(sample, next(read)) for sample in group.samples] for group in groups]

    def close(self) -> None:
        """Frees the model."""
        self._reader.close()

    def _score(self, sample: Sample, steps: Sequence[Step] | str) -> Score:
        if isinstance(steps, str):
            return failure(sample, f"process_reward: {steps}")
        is_raw = self._config.activation == "none"
        values = [step.value if is_raw else sigmoid(step.value) for step in steps]
        spans = tuple((s.first, s.end, v) for s, v in zip(steps, values, strict=True))
        parts: dict[str, float | None] = {"steps": float(len(values)), "smallest": min(values)}
        value = combine(values, self._config.aggregate)
        return Score(sample.sample_id, value, parts, spans if self._reader.is_aligned else ())


def combine(values: Sequence[float], how: str) -> float:
    """`[0.5, 0.2, 0.8]`: mean 0.5, min 0.2, product 0.08, last 0.8."""
    if how == "mean":
        return math.fsum(values) / len(values)
    return {"min": min(values), "product": math.prod(values), "last": values[-1]}[how]


def sigmoid(value: float) -> float:
    """1 / (1 + e^-value) without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))
