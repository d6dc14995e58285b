"""Graded numeric closeness for calculations (RandomCalculation, ALGORITHMS 12.9)."""

from __future__ import annotations

from dataclasses import dataclass

from align.data.builtin.random_calculation import graded, parse_number
from align.records import Prompt, Sample, Score
from align.rewards.exact_match import accepted_answers
from align.rewards.patterns import check_patterns, compile_pattern, extract_last
from align.rewards.per_sample import PerSample, failure


@dataclass(frozen=True)
class Graded:
    """r = 1 - .5 min(|a - b|, 1) - .5 min(|a - b| / (|b| + 1e-6), 1) for answer a, reference b.

    A completion that is no number scores 0, and `parts["parsed"]` is 0.
    """

    extract: str | None = None
    """Regular expression: the last match (its first group) is read as the number, not all of the
    text."""

    def __post_init__(self) -> None:
        check_patterns(extract=self.extract)

    def open(self) -> PerSample:
        """Compiles the pattern."""
        pattern = compile_pattern(self.extract, "extract") if self.extract else None

        def score(prompt: Prompt, sample: Sample) -> Score:
            references = [
                text for text in accepted_answers(prompt.answer) if parse_number(text) is not None
            ]
            if not references:
                return failure(
                    sample, f"prompt {prompt.prompt_id} has no number as reference answer"
                )
            said = extract_last(pattern, sample.text) if pattern is not None else sample.text
            if said is None or parse_number(said) is None:
                return Score(sample.sample_id, 0.0, {"parsed": 0.0})
            value = max(graded(said, reference) for reference in references)
            return Score(sample.sample_id, value, {"parsed": 1.0})

        return PerSample(score)
