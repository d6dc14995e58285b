"""Several reward sources as one: a weighted sum, each source's own term kept in `parts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from align.errors import InputError
from align.records import Sample, Score
from align.rewards.nested import told_of
from align.rewards.protocol import Group, Reward, Scorer


@dataclass(frozen=True)
class Weighted:
    """value = sum of weight x value over the sources whose weight is not 0."""

    sources: tuple[tuple[str, float, Reward], ...]
    """(label, weight, reward): the label names the part in reports; weight 0 reports without
    counting."""

    def __post_init__(self) -> None:
        labels = [label for label, _, _ in self.sources]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(
                    f'two sources are called "{label}"; give each a `label` of its own'
                )
        if not any(weight for _, weight, _ in self.sources):
            raise InputError("no source has a weight other than 0; at least one must count")

    def open(self) -> WeightedScorer:
        """Opens all sources; those already open are closed again where one fails."""
        with ExitStack() as stack:
            opened = dict[str, Scorer]()
            for label, _, reward in self.sources:
                scorer = reward.open()
                stack.callback(scorer.close)
                opened[label] = scorer
            weights = {label: weight for label, weight, _ in self.sources}
            return WeightedScorer(weights, opened, stack.pop_all())


@dataclass(frozen=True)
class WeightedScorer:
    """The opened sources by label, in the recipe's order."""

    weights: Mapping[str, float]
    opened: Mapping[str, Scorer]
    closing: ExitStack

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Sums; a sample has no value where any counted source failed, and `error` names those."""
        scored = {label: scorer.score(groups) for label, scorer in self.opened.items()}
        return [
            [
                self._sum(sample, {label: scores[g][i] for label, scores in scored.items()})
                for i, sample in enumerate(group.samples)
            ]
            for g, group in enumerate(groups)
        ]

    def close(self) -> None:
        """Closes every source, the last opened first."""
        self.closing.close()

    def _sum(self, sample: Sample, scores: Mapping[str, Score]) -> Score:
        parts = dict[str, float | None]()
        for label, score in scores.items():
            parts[label] = score.value
            parts |= {f"{label}/{name}": part for name, part in score.parts.items()}
        counted = [(self.weights[label], label, score) for label, score in scores.items()]
        counted = [(weight, label, score) for weight, label, score in counted if weight]
        failed = [told_of(label, score.error) for _, label, score in counted if score.value is None]
        if failed:
            return Score(sample.sample_id, None, parts, error="; ".join(failed))
        terms = [weight * score.value for weight, _, score in counted if score.value is not None]
        spans = tuple(
            (first, end, weight * value)
            for weight, _, score in counted
            for first, end, value in score.spans
        )
        return Score(sample.sample_id, math.fsum(terms), parts, spans)
