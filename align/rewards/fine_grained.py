"""Fine-grained rewards: several models, each with a density and weight of its own, summed
(ALGORITHMS 12.11).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import ConfigDict

from align.records import Sample, Score
from align.rewards.patterns import compile_pattern
from align.rewards.per_sample import failure
from align.rewards.protocol import Group

if TYPE_CHECKING:
    from align.rewards.steps import Step, StepReader


@dataclass(frozen=True)
class Aspect:
    """One reward model. A segment counts weight x (logit - centre) / spread, on its last token."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str
    """Hub id or folder of a sequence classifier with one label."""
    label: str
    """Name of its part in reports."""
    separator: str | None = None
    r"""Regular expression between segments, e.g. `[.!?]\s+`; null: the whole completion is one."""
    weight: float = 1.0
    centre: float = 0.0
    spread: Annotated[float, Gt(0)] = 1.0


@dataclass(frozen=True)
class FineGrained:
    """The value is the sum over models and segments; `spans` hold each segment's share on its last
    token where the tokenizer is the policy's.
    """

    models: Annotated[tuple[Aspect, ...], MinLen(1)]
    policy: str | None = None
    """As in `reward_model`; filled in by the stage."""
    max_length: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1)] = 16
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        labels = [model.label for model in self.models]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two models share a label: {labels}")
        for model in self.models:
            if model.separator is not None:
                compile_pattern(model.separator, "separator")

    def open(self) -> FineGrainedScorer:
        """Loads every model; those already open are closed again where one fails."""
        from align.rewards.steps import StepOptions, StepReader

        with ExitStack() as stack:
            readers = dict[str, StepReader]()
            for model in self.models:
                split = model.separator
                options = StepOptions(
                    path=model.path,
                    separator=None if split is None else compile_pattern(split, "separator"),
                    policy=self.policy,
                    max_length=self.max_length,
                    batch_size=self.batch_size,
                    dtype=self.dtype,
                    chat_template=self.chat_template,
                )
                readers[model.label] = StepReader(options)
                stack.callback(readers[model.label].close)
            return FineGrainedScorer(self, readers, stack.pop_all())


@dataclass(frozen=True)
class FineGrainedScorer:
    """The opened models by label."""

    config: FineGrained
    readers: Mapping[str, StepReader]
    closing: ExitStack

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Sums; a sample that one model cannot read fails."""
        items = [(group.prompt, sample) for group in groups for sample in group.samples]
        read = {label: reader.read(items) for label, reader in self.readers.items()}
        summed = iter(
            self._sum(sample, {label: steps[place] for label, steps in read.items()})
            for place, (_, sample) in enumerate(items)
        )
        return [[next(summed) for _ in group.samples] for group in groups]

    def close(self) -> None:
        """Frees every model."""
        self.closing.close()

    def _sum(self, sample: Sample, read: Mapping[str, list[Step] | str]) -> Score:
        parts = dict[str, float | None]()
        spans = list[tuple[int, int, float]]()
        for model in self.config.models:
            steps = read[model.label]
            if isinstance(steps, str):
                return failure(sample, f"fine_grained: {model.label}: {steps}")
            shares = [model.weight * (s.value - model.centre) / model.spread for s in steps]
            parts[model.label] = math.fsum(shares)
            if self.readers[model.label].is_aligned:
                spans += [(s.end - 1, s.end, v) for s, v in zip(steps, shares, strict=True)]
        total = math.fsum(value for value in parts.values() if value is not None)
        return Score(sample.sample_id, total, parts, tuple(sorted(spans)))
