"""A scorer made of one function on one sample, for rewards that look at each completion alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from align.records import Prompt, Sample, Score
from align.rewards.overdue import Overdue, in_time
from align.rewards.protocol import Group


@dataclass(frozen=True)
class PerSample:
    """Scores by `function(prompt, sample) -> Score`; holds nothing that must be freed."""

    function: Callable[[Prompt, Sample], Score]

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One score a sample, in the groups' order; a check that does not end fails its sample."""
        return [[self._score(group.prompt, s) for s in group.samples] for group in groups]

    def close(self) -> None:
        """Nothing to free."""

    def _score(self, prompt: Prompt, sample: Sample) -> Score:
        try:
            return in_time(lambda: self.function(prompt, sample))
        except Overdue as error:
            return failure(sample, str(error))


def failure(sample: Sample, error: str) -> Score:
    """The score of a sample that could not be scored: no value, and why."""
    return Score(sample.sample_id, None, error=error)
