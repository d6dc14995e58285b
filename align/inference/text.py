"""The text of a completion, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from align.data.chat import decode_completion

_TAIL = 16
"""Prompt tokens that a completion is decoded after: enough for any character that spans tokens."""


def completion_text(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    stop: Sequence[str] = (),
) -> str:
    """The completion as it reads after its prompt, without special tokens, cut before the first
    stop string.

    The tokens are never cut: they are what was sampled, including those that spell the stop string
    (I1).
    """
    text = decode_completion(tokenizer, prompt_ids[-_TAIL:], completion_ids)
    places = [place for string in stop if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text


def ends_with_stop(
    tokenizer: PreTrainedTokenizerBase, completion_ids: Sequence[int], stop: Sequence[str]
) -> bool:
    """Whether the last token completes one of the stop strings."""
    if not stop:
        return False
    # A token is at least one character, a few (special, parts of a character) aside.
    reach = max(len(string) for string in stop) + _TAIL
    start = max(0, len(completion_ids) - reach)
    text = decode_completion(tokenizer, completion_ids[:start][-_TAIL:], completion_ids[start:])
    return any(string in text for string in stop)
