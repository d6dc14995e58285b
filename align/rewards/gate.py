"""One reward behind another: `then` counts only where `when` passes.

The format gate of MT-R1-Zero (ALGORITHMS 12.19), +1 or -1 for the format and -2 for the content of
a malformed answer, is `{name: gate, add: true, otherwise: -2, when: {name: format_tags, right: 1,
wrong: -1, ...}, then: {name: bleu, ...}}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from align.records import Sample, Score
from align.rewards.nested import (
    Inner,
    build_inner,
    failed_within,
    label_of,
    pairs_of,
    parts_under,
)
from align.rewards.protocol import Group, Scorer


@dataclass(frozen=True)
class Gate:
    """value = `then` where `when` >= `at`, else `otherwise`. `then` is asked for the samples that
    pass alone; parts keep both.
    """

    when: Inner
    """The reward that opens the gate."""
    then: Inner
    """The reward behind it."""
    at: float = 0.5
    otherwise: float = 0.0
    add: bool = False
    """True adds the value of `when`."""

    def __post_init__(self) -> None:
        build_inner(self.when, "when")
        build_inner(self.then, "then")
        if label_of(self.when) == label_of(self.then):
            raise ValueError(f"both are called {label_of(self.when)}; give one a label")

    def open(self) -> GateScorer:
        """Opens both."""
        with ExitStack() as stack:
            when = build_inner(self.when, "when").open()
            stack.callback(when.close)
            then = build_inner(self.then, "then").open()
            stack.callback(then.close)
            return GateScorer(self, when, then, stack.pop_all())


@dataclass(frozen=True)
class GateScorer:
    """Both, opened."""

    config: Gate
    when: Scorer
    then: Scorer
    closing: ExitStack

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """A sample that `when` cannot score fails, as does one that passes and `then` cannot
        score.
        """
        gates = pairs_of(groups, self.when.score(groups))
        passing = [
            Group(group.prompt, tuple(sample for sample, gate in pairs if self._passes(gate)))
            for group, pairs in zip(groups, gates, strict=True)
        ]
        asked = [group for group in passing if group.samples]
        scores = self.then.score(asked) if asked else []
        behind = iter(score for scores_G in scores for score in scores_G)
        return [
            [
                self._score(sample, gate, next(behind) if self._passes(gate) else None)
                for sample, gate in pairs
            ]
            for pairs in gates
        ]

    def close(self) -> None:
        """Closes both."""
        self.closing.close()

    def _passes(self, gate: Score) -> bool:
        return gate.value is not None and gate.value >= self.config.at

    def _score(self, sample: Sample, gate: Score, score: Score | None) -> Score:
        config = self.config
        when, then = label_of(config.when), label_of(config.then)
        if gate.value is None:
            return failed_within(sample, when, gate)
        parts, content = parts_under(when, gate), config.otherwise
        if score is not None:
            parts |= parts_under(then, score)
            if score.value is None:
                error = failed_within(sample, then, score).error
                return Score(sample.sample_id, None, parts, error=error)
            content = score.value
        value = content + (gate.value if config.add else 0.0)
        return Score(sample.sample_id, value, parts)
