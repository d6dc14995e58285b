"""A required layout: each tag once, in order (the format reward of R1-style recipes; the gate of
MT-R1-Zero, ALGORITHMS 12.19).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from align.records import Prompt, Sample, Score
from align.rewards.per_sample import PerSample

NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class FormatTags:
    """`right` where the completion is `<a>...</a> <b>...</b>` for tags a, b, with something in each
    and nothing but blanks around, else `wrong`.
    """

    tags: Annotated[tuple[str, ...], MinLen(1)] = ("think", "answer")
    opened: bool = False
    """True where the prompt ends with the first opening tag, so that the completion lacks it."""
    around: bool = False
    """True allows other text before, between and after."""
    right: float = 1.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        for tag in self.tags:
            if not NAME.fullmatch(tag):
                raise ValueError(f"{tag!r} is not a tag's name: write think for <think>")

    def open(self) -> PerSample:
        """Nothing to load."""

        def score(prompt: Prompt, sample: Sample) -> Score:
            text = f"<{self.tags[0]}>{sample.text}" if self.opened else sample.text
            return Score(sample.sample_id, self.right if self._fits(text) else self.wrong)

        return PerSample(score)

    def _fits(self, text: str) -> bool:
        """Found by position, not by one pattern, whose time would grow with the square of the
        text.
        """
        end = 0
        for tag in self.tags:
            first, last = f"<{tag}>", f"</{tag}>"
            start, stop = text.find(first, end), text.find(last, end)
            is_once = text.count(first) == text.count(last) == 1
            if not is_once or not end <= start < stop:
                return False
            if not text[start + len(first) : stop].strip():
                return False
            if not self.around and text[end:start].strip():
                return False
            end = stop + len(last)
        return self.around or not text[end:].strip()
