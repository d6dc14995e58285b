"""Chat models as judges: one user message a question, the verdict read from the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from align.records import Json
from align.rewards.endpoint import Endpoint, Kind, Refusal, open_endpoint
from align.rewards.serving_options import Target
from align.rewards.verdict import TOP, expected_value, find_verdict, read_answer

DEFAULTS: Mapping[str, Json] = {"temperature": 0.0, "max_tokens": 1024, "seed": 0}
"""Fields of every request unless `sampling` says otherwise; null leaves one out."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says: a value, the share of probability that it rests on (None: the text
    alone), or an error.
    """

    value: float | None = None
    mass: float | None = None
    said: float | None = None
    """Worth of the verdict in the text."""
    error: str | None = None


@dataclass(frozen=True)
class Reading:
    """How an answer becomes a number."""

    pattern: str
    value_of: Callable[[str], float]
    """Worth of a verdict; raises `ValueError` where it is none."""
    expected: Mapping[str, float] | None = None
    """Verdicts of one token and their worth, where the mean over them is wanted."""


class Chat:
    """An open judge."""

    def __init__(
        self, who: str, target: Target, sampling: Mapping[str, object], reading: Reading
    ) -> None:
        pattern = re.compile(reading.pattern)
        at = pattern if reading.expected is not None else None
        self._who, self._reading, self._pattern = who, reading, pattern
        fields = {**DEFAULTS, **cast("Mapping[str, Json]", sampling)}
        if at is not None:
            fields |= {"logprobs": True, "top_logprobs": TOP}
        self._fields = {name: value for name, value in fields.items() if value is not None}
        kind = Kind(
            who,
            "/chat/completions",
            "/v1/chat/completions",
            "generate",
            lambda data: read_answer(data, at),
            reading.pattern if at is not None else None,
        )
        self.endpoint: Endpoint = open_endpoint(target, kind)

    def ask(self, questions: Sequence[str]) -> list[Verdict]:
        """A verdict a question."""
        bodies = [self._body(question) for question in questions]
        return [self._read(answer) for answer in self.endpoint.ask(bodies)]

    def close(self) -> None:
        """Ends a server of our own."""
        self.endpoint.close()

    def _body(self, question: str) -> dict[str, Json]:
        return {"messages": [{"role": "user", "content": question}], **self._fields}

    def _read(self, answer: Json | Refusal) -> Verdict:
        if isinstance(answer, Refusal):
            return Verdict(error=answer.reason)
        kept = cast("Mapping[str, Json]", answer)
        try:
            label = find_verdict(kept, self._pattern)
            said = self._reading.value_of(label)
            expected = self._reading.expected
            found = (said, None) if expected is None else expected_value(kept, label, expected)
        except ValueError as error:
            self.endpoint.ledger.add({"unread_verdicts": 1})
            return Verdict(error=f"{self._who}: {error}")
        return Verdict(*found, said)
