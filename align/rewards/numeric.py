r"""A number in the completion against the prompt's answer, within a tolerance."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from annotated_types import Ge

from align.data.builtin.random_calculation import parse_number
from align.records import Prompt, Sample, Score
from align.rewards.exact_match import accepted_answers
from align.rewards.patterns import check_patterns, compile_pattern, extract_last
from align.rewards.per_sample import PerSample, failure

NUMBER = re.compile(
    r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+|/\d+)?", re.ASCII
)
"""With thousands separators, decimals, an exponent or a denominator."""


@dataclass(frozen=True)
class Numeric:
    """`right` where |a - b| <= max(`absolute`, `relative` x |b|) for answer a and reference b, else
    `wrong`; also where there is no number, and `parts["parsed"]` is 0 there. Compared exactly.
    """

    find: str = "last"
    r"""Where the number stands: `last` in the text, `boxed` (the last `\boxed{}`), or a regular
    expression whose last match (its first group) holds it."""
    absolute: Annotated[float, Ge(0)] = 0.0
    relative: Annotated[float, Ge(0)] = 0.0
    right: float = 1.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        check_patterns(find=self.find)

    def open(self) -> PerSample:
        """Compiles the pattern."""
        find = self._finder()

        def score(prompt: Prompt, sample: Sample) -> Score:
            references = [last_number(text) for text in accepted_answers(prompt.answer)]
            known = [number for number in references if number is not None]
            if not known:
                return failure(
                    sample, f"numeric: prompt {prompt.prompt_id} has no number as reference answer"
                )
            said = find(sample.text)
            number = None if said is None else last_number(said)
            if number is None:
                return Score(sample.sample_id, self.wrong, {"parsed": 0.0})
            is_right = any(self._is_close(number, reference) for reference in known)
            return Score(sample.sample_id, self.right if is_right else self.wrong, {"parsed": 1.0})

        return PerSample(score)

    def _finder(self) -> Callable[[str], str | None]:
        match self.find:
            case "last":
                return lambda text: text
            case "boxed":
                return last_boxed
        pattern = compile_pattern(self.find, "find")
        return lambda text: extract_last(pattern, text)

    def _is_close(self, number: Fraction, reference: Fraction) -> bool:
        allowed = max(Fraction(self.absolute), Fraction(self.relative) * abs(reference))
        return abs(number - reference) <= allowed


def last_number(text: str) -> Fraction | None:
    """The last number in a text: `"$1,200.50 or 1/2."` -> 1/2; a percent sign changes nothing."""
    found = reversed(NUMBER.findall(text))
    numbers = (parse_number(number.replace(",", "")) for number in found)
    return next((number for number in numbers if number is not None), None)


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`, nested braces included; None where none is closed."""
    start = text.rfind(r"\boxed{")
    depth = 0
    for place in range(start + len(r"\boxed"), len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len(r"\boxed{") : place]
    return None
