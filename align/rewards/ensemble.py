"""Several reward models as one conservative reward: their mean, mean less k standard deviations, or
minimum.

Where members disagree, a policy has often found what only one of them likes (Coste et al. 2023,
arXiv:2310.02743, worst-case and uncertainty-weighted optimisation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import ConfigDict

from align.errors import InputError
from align.records import Sample, Score
from align.rewards.per_sample import failure
from align.rewards.protocol import Group, Scorer
from align.rewards.reward_model import RewardModel


@dataclass(frozen=True)
class Member:
    """One reward model. Scales are arbitrary (ALGORITHMS 2.1), so it counts as (r - centre) /
    spread.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str
    """Hub id or folder."""
    label: str | None = None
    """Name of its part in reports; default: its number, from 0."""
    centre: float = 0.0
    """Mean of its scores on reference completions; `align doctor --reward` prints it."""
    spread: Annotated[float, Gt(0)] = 1.0
    """Their standard deviation. Members of unequal spread, unscaled, leave the widest one to
    decide."""


@dataclass(frozen=True)
class Ensemble:
    """Needs every member's score: a sample that one of them cannot score fails."""

    members: Annotated[tuple[Member, ...], MinLen(2)]
    aggregate: Literal["mean", "mean_minus_std", "min"] = "mean"
    k: Annotated[float, Ge(0)] = 1.0
    """Of `mean_minus_std`: standard deviations (of the members, not corrected) subtracted."""
    policy: str | None = None
    """As in `reward_model`; filled in by the stage."""
    max_length: Annotated[int, Ge(1)] | None = None
    """As in `reward_model`, for each member."""
    batch_size: Annotated[int, Ge(1)] = 16
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        labels = list(self.labels)
        for label in labels:
            if labels.count(label) > 1 or label in ("mean", "std"):
                raise ValueError(f"two parts are called {label!r}: give the members other labels")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the members' parts."""
        return tuple(member.label or str(place) for place, member in enumerate(self.members))

    def open(self) -> EnsembleScorer:
        """Loads every member; those already open are closed again where one fails, whose error
        names it.
        """
        with ExitStack() as stack:
            opened = dict[str, Scorer]()
            for label, member in zip(self.labels, self.members, strict=True):
                try:
                    scorer = self._model(member).open()
                except InputError as error:
                    raise type(error)(f"ensemble member {label}: {error}") from error
                stack.callback(scorer.close)
                opened[label] = scorer
            return EnsembleScorer(self, opened, stack.pop_all())

    def _model(self, member: Member) -> RewardModel:
        return RewardModel(
            path=member.path,
            policy=self.policy,
            max_length=self.max_length,
            batch_size=self.batch_size,
            dtype=self.dtype,
            chat_template=self.chat_template,
        )


@dataclass(frozen=True)
class EnsembleScorer:
    """The opened members by label."""

    config: Ensemble
    opened: Mapping[str, Scorer]
    closing: ExitStack

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Aggregates; `parts` holds each member's normalised score, their `mean` and their `std`
        (disagreement).
        """
        scored = {label: scorer.score(groups) for label, scorer in self.opened.items()}
        return [
            [
                self._combine(sample, {label: scores[g][i] for label, scores in scored.items()})
                for i, sample in enumerate(group.samples)
            ]
            for g, group in enumerate(groups)
        ]

    def close(self) -> None:
        """Frees every member."""
        self.closing.close()

    def _combine(self, sample: Sample, scores: Mapping[str, Score]) -> Score:
        parts = dict[str, float | None]()
        values = list[float]()
        for (label, score), member in zip(scores.items(), self.config.members, strict=True):
            if score.value is None:
                return failure(sample, f"ensemble member {label}: {score.error}")
            parts[label] = (score.value - member.centre) / member.spread
            values.append((score.value - member.centre) / member.spread)
        mean, std = mean_and_std(values)
        value = aggregate(values, self.config.aggregate, self.config.k)
        return Score(sample.sample_id, value, {**parts, "mean": mean, "std": std})


def aggregate(values: Sequence[float], how: str, k: float = 1.0) -> float:
    """`[1, 2, 6]`: mean 3; std sqrt(14 / 3) = 2.160247, so mean_minus_std with k = 0.5 is 1.919877;
    min 1.
    """
    mean, std = mean_and_std(values)
    return {"mean": mean, "mean_minus_std": mean - k * std, "min": min(values)}[how]


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, divided by n: the members are all there are."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
