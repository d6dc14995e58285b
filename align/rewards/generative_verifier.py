"""A language model's verdict on a solution: P(right) against P(wrong), read from one token
(ALGORITHMS 7.6). `data/builtin/verdicts.py` makes what it is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from align.data.builtin.verdicts import LABELS, QUESTION, ask, check_question
from align.records import Sample, Score
from align.rewards.per_sample import failure
from align.rewards.protocol import Group

if TYPE_CHECKING:
    from align.rewards.label_reader import LabelReader


@dataclass(frozen=True)
class GenerativeVerifier:
    """value = P(right) / (P(right) + P(wrong)) in [0, 1], the two labels' share after the question.

    Beside a verifier that counts, give it `weight: 0` and let `evaluate.vote` weigh by it.
    """

    path: str
    """Hub id or folder."""
    question: str = QUESTION
    """As it was trained; `{prompt}` and `{completion}` are filled in."""
    labels: tuple[str, str] = LABELS
    """Verdicts for right and wrong, each one token."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens of the question; a longer one is not asked. Default: the model's context."""
    batch_size: Annotated[int, Ge(1)] = 8
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    """As `policy.chat_template`; default: the model's own."""

    def __post_init__(self) -> None:
        check_question(self.question, self.labels)

    def open(self) -> VerifierScorer:
        """Loads the model; `SetupError` where a label is not one token."""
        from align.rewards.label_reader import LabelReader

        reader = LabelReader(
            self.path,
            self.labels,
            max_length=self.max_length,
            batch_size=self.batch_size,
            dtype=self.dtype,
            chat_template=self.chat_template,
        )
        return VerifierScorer(reader, self.question)


class VerifierScorer:
    """Asks about every sample alone."""

    def __init__(self, reader: LabelReader, question: str) -> None:
        self._reader, self._question = reader, question

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """The probability of the first label."""
        asked = [
            ask(group.prompt.messages, sample.text, self._question)
            for group in groups
            for sample in group.samples
        ]
        results = iter(self._reader.read(asked))
        return [[_scored(sample, next(results)) for sample in group.samples] for group in groups]

    def close(self) -> None:
        """Frees the model."""
        self._reader.close()


def _scored(sample: Sample, found: float | str) -> Score:
    return (
        Score(sample.sample_id, found) if isinstance(found, float) else failure(sample, str(found))
    )
