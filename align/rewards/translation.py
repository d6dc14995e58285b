"""BLEU and chrF of a completion against reference texts, by sacrebleu; one sentence at a time.

Both are divided by 100, so that a perfect text gets 1. A format gate before them is `gate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from align.records import Prompt, Sample, Score
from align.rewards.exact_match import accepted_answers
from align.rewards.patterns import check_patterns, compile_pattern, extract_last
from align.rewards.per_sample import PerSample, failure


@dataclass(frozen=True)
class Bleu:
    """Sentence BLEU / 100 with exponential smoothing and effective order (sacrebleu's)."""

    extract: str | None = None
    """Regular expression: the last match (its first group) is scored, e.g.
    `<translate>(.*)</translate>`; without a match the value is 0, and `parts["parsed"]` is 0."""
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """`zh` for Chinese, `char` for other languages without blanks."""
    lowercase: bool = False

    def __post_init__(self) -> None:
        check_patterns(extract=self.extract)

    def open(self) -> PerSample:
        """Imports sacrebleu."""
        from sacrebleu.metrics.bleu import BLEU

        metric = BLEU(tokenize=self.tokenize, lowercase=self.lowercase, effective_order=True)
        return against_references(
            "bleu",
            self.extract,
            lambda text, references: metric.sentence_score(text, references).score,
        )


@dataclass(frozen=True)
class Chrf:
    """Sentence chrF / 100: F2 of character n-grams up to 6; chrF++ with `words: 2`."""

    extract: str | None = None
    """As in `bleu`."""
    words: Annotated[int, Ge(0)] = 0
    """Longest n-gram of words beside those of characters."""
    lowercase: bool = False

    def __post_init__(self) -> None:
        check_patterns(extract=self.extract)

    def open(self) -> PerSample:
        """Imports sacrebleu."""
        from sacrebleu.metrics.chrf import CHRF

        metric = CHRF(word_order=self.words, lowercase=self.lowercase)
        return against_references(
            "chrf",
            self.extract,
            lambda text, references: metric.sentence_score(text, references).score,
        )


def against_references(
    name: str, extract: str | None, percent: Callable[[str, list[str]], float]
) -> PerSample:
    """A scorer of the extracted text against `Prompt.answer`, one reference or several."""
    pattern = compile_pattern(extract, "extract") if extract else None

    def score(prompt: Prompt, sample: Sample) -> Score:
        references = accepted_answers(prompt.answer)
        if not references:
            return failure(sample, f"{name}: prompt {prompt.prompt_id} has no reference text")
        said = sample.text if pattern is None else extract_last(pattern, sample.text)
        if said is None:
            return Score(sample.sample_id, 0.0, {"parsed": 0.0})
        parts = {} if pattern is None else {"parsed": 1.0}
        return Score(sample.sample_id, percent(said.strip(), references) / 100, parts)

    return PerSample(score)
