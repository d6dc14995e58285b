"""What a judge's answer says: the verdict in its text, or the mean of what it might have said
there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import cast

from align.records import Json

TOP = 20
"""Alternatives asked for at each token; OpenAI and vLLM give no more."""
TAIL = 80
"""Characters of an answer without a verdict that are quoted."""


def read_answer(data: Mapping[str, Json], alternatives_at: re.Pattern[str] | None) -> Json:
    """What is kept of a chat completion: its `text`, why it ended (`finish`) and, with a pattern,
    the token that holds the last verdict: `token`, `at` (the verdict's place in it) and
    `alternatives`, text -> log-prob.

    Raises `ValueError` where the answer is no chat completion, or has no log-probs.
    """
    try:
        choice = cast("Mapping[str, Json]", cast("Sequence[Json]", data["choices"])[0])
        text = cast("Mapping[str, Json]", choice["message"])["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the answer is no chat completion") from error
    kept: dict[str, Json] = {
        "text": text if isinstance(text, str) else "",
        "finish": str(choice.get("finish_reason")),
    }
    if alternatives_at is not None:
        kept |= _read_tokens(choice.get("logprobs"), alternatives_at)
    return kept


def _read_tokens(logprobs: Json, pattern: re.Pattern[str]) -> dict[str, Json]:
    try:
        entries = cast(
            "Sequence[Mapping[str, Json]]", cast("Mapping[str, Json]", logprobs)["content"]
        )
        words = [str(entry["token"]) for entry in entries]
        tops = [cast("Sequence[Mapping[str, Json]]", entry["top_logprobs"]) for entry in entries]
        read: list[dict[str, Json]] = [
            {str(one["token"]): one["logprob"] for one in (*top, entry)}
            for entry, top in zip(entries, tops, strict=True)
        ]
    except (KeyError, TypeError) as error:
        raise ValueError("the answer has no top_logprobs: set expected to false") from error
    # The tokens' own text, special ones included, so that places fit.
    text = "".join(words)
    matches = list(pattern.finditer(text))
    place = matches[-1].start(1) if matches else len(text)
    for word, alternatives in zip(words, read, strict=True):
        if place < len(word):
            return {"text": text, "token": word, "at": place, "alternatives": alternatives}
        place -= len(word)
    return {"text": text}


def find_verdict(kept: Mapping[str, Json], pattern: re.Pattern[str]) -> str:
    """The verdict; raises `ValueError` where there is none, or where several differ.

    `Rating: [[7]]` -> `7`
    """
    text = str(kept["text"])
    found = list(dict.fromkeys(pattern.findall(text)))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"several verdicts: {', '.join(found)}")
    if kept["finish"] == "length":
        raise ValueError("cut before its verdict; raise sampling.max_tokens")
    raise ValueError(f"no verdict in {text[-TAIL:]!r}")


def expected_value(
    kept: Mapping[str, Json], label: str, values: Mapping[str, float]
) -> tuple[float, float]:
    """Mean of `values` over the alternatives to the verdict's token, and their probability. Raises
    `ValueError` where the verdict is none of them.

    Token `[7` with 7: .6, 8: .2 and 9: .2 of which the last is written ` 9`: (.6 x 7 + .2 x 8) / .8
    = 7.25, and 0.8.
    """
    if label not in values:
        raise ValueError(f"the verdict {label!r} is none of {', '.join(values)}")
    token, at = str(kept["token"]), cast(int, kept["at"])
    before, after = token[:at], token[at + len(label) :]
    mass, total = 0.0, 0.0
    for other, logp in cast("Mapping[str, float]", kept["alternatives"]).items():
        if len(other) > at and other.startswith(before) and other.endswith(after):
            value = values.get(other[at : len(other) - len(after)])
            if value is not None:
                mass += math.exp(logp)
                total += math.exp(logp) * value
    return total / mass, mass
