"""Reward by word values: the sum over a completion's words of a lexicon's entries, clipped.

With the VADER lexicon (Hutto and Gilbert 2014; mean of ten raters a word, -4 to 4) this is a cheap
"true" reward by which the over-optimisation of a learned one can be seen. Without VADER's rules for
negation and intensifiers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from align.errors import DataError
from align.records import Prompt, Sample, Score
from align.rewards.patterns import check_patterns, compile_pattern
from align.rewards.per_sample import PerSample


@dataclass(frozen=True)
class Lexicon:
    """Sum of word values, clipped to [-clip, clip]."""

    path: str
    """Tab-separated file with the header `token\\tvalence`, one word a line."""
    clip: float = 10.0
    words: str = r"[a-z]+(?:'[a-z]+)?"
    """What a word is, as a regular expression on the lower-cased completion."""

    def __post_init__(self) -> None:
        check_patterns(words=self.words)

    def open(self) -> PerSample:
        """Reads the file; `DataError` names the line that cannot be used."""
        values = read_lexicon(Path(self.path).expanduser())
        words = compile_pattern(self.words, "words")

        def score(prompt: Prompt, sample: Sample) -> Score:
            found = (match.group(0) for match in words.finditer(sample.text.lower()))
            total = math.fsum(values.get(word, 0.0) for word in found)
            return Score(sample.sample_id, max(-self.clip, min(self.clip, total)))

        return PerSample(score)


def read_lexicon(path: Path) -> dict[str, float]:
    """Word to value. Raises `DataError` for a missing file, a wrong header or a line without a
    finite number.
    """
    remedy = "expected a tab-separated file with the header token<TAB>valence"
    if not path.is_file():
        raise DataError(f"{path}: no such lexicon file; {remedy}")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].split("\t") != ["token", "valence"]:
        raise DataError(f"{path}:1: unknown header; {remedy}")
    values = dict[str, float]()
    for number, line in enumerate(lines[1:], start=2):
        token, _, text = line.partition("\t")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{path}:{number}: {text!r} is not a number; {remedy}")
        values[token.lower()] = value
    return values
