"""`verdicts`: the scored samples of a run as questions whether they are right, so that the model
that solved them learns to judge (TOPR's generative verifier, ALGORITHMS 7.6).

The verdict is one token; `rewards/generative_verifier.py` reads its probability after the same
text. The same rows serve SFT (`completion`), prompts and evaluation (`answer`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from align.data.builtin.pairwise import render_context
from align.data.builtin.partition import share_of, uniform
from align.data.shards import read_records
from align.errors import DataError
from align.records import Prompt, Sample, Score, Turn, derive_seed

QUESTION = (
    "{prompt}\n\nProposed solution:\n{completion}\n\nIs the proposed solution correct? Answer Yes"
    " or No."
)
LABELS = ("Yes", "No")


@dataclass(frozen=True)
class Scored:
    """Where the scored samples lie."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str
    """Folder that holds `prompts`, `samples` and `scores`, e.g. `runs/NAME/iter-000`."""


@dataclass(frozen=True)
class Verdicts:
    """Samples of one folder of a run (`iter-000`), those of a prompt in one split.

    Splits by the prompt: `train` 40 %, `prompts` 40 %, `validation` 10 %, `test` 10 %. Samples
    without a score are left out.
    """

    of: Scored
    """`{path: ...}` of the samples."""
    question: str = QUESTION
    """What is asked; `{prompt}` and `{completion}` are filled in."""
    labels: tuple[str, str] = LABELS
    """Verdicts for right and wrong, each one token of the policy."""
    threshold: float = 0.0
    """A sample is right if its score is above this."""

    def __post_init__(self) -> None:
        check_question(self.question, self.labels)

    def rows(self, split: str, seed: int) -> Iterator[dict[str, object]]:
        """Rows of `prompt`, `completion` and the equal `answer`, in an order drawn from `seed`.

        Raises `DataError` where the folder or the split holds no scored sample.
        """
        begin, end = share_of(split)
        folder = Path(self.of.path).expanduser()
        prompts = {one.prompt_id: one for one in read_records(folder / "prompts", Prompt)}
        scores = {one.sample_id: one.value for one in read_records(folder / "scores", Score)}
        kept = [
            sample
            for sample in read_records(folder / "samples", Sample)
            if scores.get(sample.sample_id) is not None and begin <= uniform(sample.prompt_id) < end
        ]
        if not kept:
            raise DataError(f"{folder} holds no scored sample in the split {split!r}")
        kept.sort(key=lambda sample: derive_seed("verdicts", seed, sample.sample_id))
        for sample in kept:
            value = scores[sample.sample_id]
            is_right = value is not None and value > self.threshold
            label = self.labels[0 if is_right else 1]
            asked = ask(prompts[sample.prompt_id].messages, sample.text, self.question)
            if asked[0]["role"] == "text":
                yield {"prompt": asked[0]["content"], "completion": label, "answer": label}
            else:
                reply = [{"role": "assistant", "content": label}]
                yield {"prompt": asked, "completion": reply, "answer": label}


def ask(messages: Sequence[Turn], completion: str, question: str) -> list[Turn]:
    """The question as one turn: of role `text` where the prompt is one, else the user's."""
    is_single = len(messages) == 1
    prompt = str(messages[0]["content"]) if is_single else render_context(messages)
    text = question.replace("{prompt}", prompt).replace("{completion}", completion)
    role = "text" if messages[0]["role"] == "text" else "user"
    return [{"role": role, "content": text}]


def check_question(question: str, labels: tuple[str, str]) -> None:
    """Raises ValueError where the question shows no solution, or the verdicts are one."""
    if "{completion}" not in question:
        raise ValueError("the question must hold {completion}, the solution that is judged")
    if labels[0] == labels[1]:
        raise ValueError(f"the two labels are both {labels[0]!r}")
