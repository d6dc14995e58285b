"""Where the steps of a completion end, in characters and in tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from align.data.chat import decode_completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def segment_ends(text: str, separator: re.Pattern[str] | None) -> list[int]:
    r"""The end of each segment in characters. A separator belongs to the segment before it, and a
    segment without a letter or digit to its neighbour. Without a separator the text is one.

    `"a. b.\n\nc"` at `\n\n` -> `[7, 8]`; a text that says nothing has none.
    """
    ends: list[int] = []
    start = 0
    for match in separator.finditer(text) if separator is not None else ():
        if match.end() > start and text[start : match.start()].strip():
            ends.append(match.end())
            start = match.end()
    if text[start:].strip():
        ends.append(len(text))
    elif ends:
        ends[-1] = len(text)
    return ends


def token_ends(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    ends: Sequence[int],
) -> list[int]:
    """The number of completion tokens that each segment needs to be whole; the last segment has all
    of them, the end token too. Two segments that end in one token are both given it.
    """
    found: list[int] = []
    for end in ends[:-1]:
        low, high = 1, len(completion_ids)
        while low < high:
            middle = (low + high) // 2
            text = decode_completion(tokenizer, prompt_ids, completion_ids[:middle])
            low, high = (low, middle) if len(text) >= end else (middle + 1, high)
        found.append(low)
    return [*found, len(completion_ids)] if ends else []
