"""Exact match: 1 where the completion says the prompt's answer, 0 where it does not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from align.records import Json, Prompt, Sample, Score
from align.rewards.patterns import check_patterns, compile_pattern, extract_last
from align.rewards.per_sample import PerSample, failure


@dataclass(frozen=True)
class ExactMatch:
    """Compares text with `Prompt.answer`: a string, a number, or a list of accepted ones."""

    strip: bool = True
    """Ignore white space around both texts."""
    extract: str | None = None
    """Regular expression: the last match (its first group) in the completion is compared, not all
    of the text. A completion without a match is wrong, and `parts["parsed"]` is 0."""
    extract_answer: str | None = None
    """The same for the reference answer, e.g. `#### (.*)` for GSM8K's own solutions."""
    remove: str = ""
    """Characters that are dropped from both before comparing, e.g. `,$`."""
    right: float = 1.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        check_patterns(extract=self.extract, extract_answer=self.extract_answer)

    def open(self) -> PerSample:
        """Compiles the patterns."""
        extract = self.extract and compile_pattern(self.extract, "extract")
        answer = self.extract_answer and compile_pattern(self.extract_answer, "extract_answer")
        return PerSample(lambda prompt, sample: self._score(prompt, sample, extract, answer))

    def _score(
        self,
        prompt: Prompt,
        sample: Sample,
        extract: re.Pattern[str] | str | None,
        extract_answer: re.Pattern[str] | str | None,
    ) -> Score:
        accepted = accepted_answers(prompt.answer)
        if isinstance(extract_answer, re.Pattern):
            found = [extract_last(extract_answer, text) for text in accepted]
            accepted = [text for text in found if text is not None]
        if not accepted:
            return failure(
                sample,
                f"prompt {prompt.prompt_id} has no reference answer to compare with; name its "
                "column, e.g. columns: {answer: solution}",
            )
        said = (
            extract_last(extract, sample.text) if isinstance(extract, re.Pattern) else sample.text
        )
        if said is None:
            return Score(sample.sample_id, self.wrong, {"parsed": 0.0})
        is_right = self._clean(said) in [self._clean(text) for text in accepted]
        parts = {"parsed": 1.0} if isinstance(extract, re.Pattern) else {}
        return Score(sample.sample_id, self.right if is_right else self.wrong, parts)

    def _clean(self, text: str) -> str:
        kept = text.translate({ord(character): None for character in self.remove})
        return kept.strip() if self.strip else kept


def accepted_answers(answer: Json) -> list[str]:
    """The texts that count as right: `"4"` -> `["4"]`; `4` -> `["4"]`; `["4", "four"]` -> both;
    None -> none.
    """
    if answer is None:
        return []
    if isinstance(answer, (list, tuple)):
        return [text for item in answer for text in accepted_answers(item)]
    return [answer if isinstance(answer, str) else str(answer)]
