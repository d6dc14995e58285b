"""A scorer that changes another's values, group by group, and keeps the value as it was among the
parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from align.records import Sample, Score
from align.rewards.nested import Inner, build_inner, failed_within, label_of, pairs_of, parts_under
from align.rewards.protocol import Group, Scorer

Values = list[list[float]]
"""The values of each group that are there: failed samples are left out."""
Rescale = Callable[[Values], Values]


@dataclass(frozen=True)
class Rescaled:
    """`rescale` sees all values of a call at once."""

    inner: Scorer
    label: str
    rescale: Rescale

    @classmethod
    def of(cls, section: Inner, rescale: Rescale) -> Rescaled:
        """Opens the reward in `section`."""
        return cls(build_inner(section, "of").open(), label_of(section), rescale)

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """New values; failures stay failures."""
        found = pairs_of(groups, self.inner.score(groups))
        values = [[s.value for _, s in pairs if s.value is not None] for pairs in found]
        rest = iter(value for values_G in self.rescale(values) for value in values_G)
        return [[self._score(sample, score, rest) for sample, score in pairs] for pairs in found]

    def close(self) -> None:
        """Closes the reward."""
        self.inner.close()

    def _score(self, sample: Sample, score: Score, rest: Iterator[float]) -> Score:
        if score.value is None:
            return failed_within(sample, self.label, score)
        return Score(sample.sample_id, next(rest), parts_under(self.label, score))
