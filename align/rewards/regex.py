"""Reward for a completion that matches a regular expression, e.g. a required answer format."""

from __future__ import annotations

from dataclasses import dataclass

from align.records import Prompt, Sample, Score
from align.rewards.patterns import check_patterns, compile_pattern
from align.rewards.per_sample import PerSample


@dataclass(frozen=True)
class Regex:
    """`right` where the pattern is found in the completion, else `wrong`."""

    pattern: str
    """Python regular expression; `.` also matches newlines."""
    full: bool = False
    """True asks that all of the completion matches, not only some part of it."""
    right: float = 1.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        check_patterns(pattern=self.pattern)

    def open(self) -> PerSample:
        """Compiles the pattern."""
        pattern = compile_pattern(self.pattern, "pattern")
        match = pattern.fullmatch if self.full else pattern.search

        def score(prompt: Prompt, sample: Sample) -> Score:
            return Score(sample.sample_id, self.right if match(sample.text) else self.wrong)

        return PerSample(score)
