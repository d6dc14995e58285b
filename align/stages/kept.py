"""What a select step reports: what its rule says of itself, and how the kept samples differ from
all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from align.candidates import Explained
from align.records import Json, Sample, Score
from align.stages.manifest import Result


@dataclass
class Kept:
    """Tallies over prompts."""

    counts: Counter[str] = field(default_factory=Counter[str])
    _above: dict[str, float] = field(default_factory=dict[str, float])
    _below: dict[str, float] = field(default_factory=dict[str, float])

    def add(
        self, samples: Sequence[Sample], scores: Sequence[Score], explained: Explained
    ) -> list[Score]:
        """Adds a prompt; returns the scores of its kept samples in the rule's order."""
        kept = [scores[index] for index in explained.kept]
        self.counts["prompts"] += 1
        self.counts["empty"] += not kept
        self.counts["candidates"] += len(scores)
        self.counts["kept"] += len(kept)
        for name, number in explained.counts.items():
            self.counts[name] += number
        for name, (above, below) in explained.shares.items():
            self._divide(name, above, below)
        if kept:
            lengths = [len(sample.completion_ids) for sample in samples]
            self._average("score/all", _values(scores))
            self._average("score/kept", _values(kept))
            self._average("tokens/all", lengths)
            self._average("tokens/kept", [lengths[index] for index in explained.kept])
        return kept

    def result(self) -> Result:
        """Counts, shares, and means over the prompts that kept something, each prompt weighing
        one.
        """
        metrics: dict[str, Json] = {
            name: self._above[name] / below for name, below in self._below.items() if below
        }
        return Result(dict(self.counts), metrics)

    def _average(self, name: str, values: Sequence[float]) -> None:
        if values:
            self._divide(name, sum(values) / len(values), 1)

    def _divide(self, name: str, above: float, below: float) -> None:
        self._above[name] = self._above.get(name, 0.0) + above
        self._below[name] = self._below.get(name, 0.0) + below


def _values(scores: Sequence[Score]) -> list[float]:
    return [score.value for score in scores if score.value is not None]
