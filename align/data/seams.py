"""Consecutive texts to ids: one BOS, and boundaries that fall between tokens."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_ANCHORS = ("\n", ".", "a")
"""Texts in front of a continuation so that it is spelled as inside a text; the first that stays
apart is used."""


def encode_segments(
    tokenizer: PreTrainedTokenizerBase, segments: Sequence[str]
) -> tuple[list[list[int]], int]:
    """Ids of each segment and the number of boundaries that a token of the joint text spans."""
    whole = encode_text(tokenizer, "".join(segments))
    cuts = [0]
    merges = 0
    for index in range(1, len(segments)):
        front = encode_text(tokenizer, "".join(segments[:index]))
        if whole[: len(front)] == front:
            cuts.append(len(front))
        else:
            merges += 1
    if merges == 0:
        ends = [*cuts[1:], len(whole)]
        return [whole[start:end] for start, end in zip(cuts, ends, strict=True)], 0
    pieces = [encode_text(tokenizer, segments[0])]
    pieces += [_encode_continuation(tokenizer, segment) for segment in segments[1:]]
    return pieces, merges


def _encode_continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of `text` as it is spelled in the middle of a text: no BOS, no leading space mark of its
    own.
    """
    for anchor in _ANCHORS:
        front = _ids(tokenizer, anchor)
        ids = _ids(tokenizer, anchor + text)
        if ids[: len(front)] == front:
            return ids[len(front) :]
    return _ids(tokenizer, text)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text from its beginning, with one BOS where the tokenizer adds one or the text
    begins with it.
    """
    ids = _ids(tokenizer, text)
    bos = tokenizer.bos_token_id
    if isinstance(bos, int) and ids[:1] != [bos] and adds_bos(tokenizer):
        return [bos, *ids]
    return ids


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True where the tokenizer puts a BOS in front of a text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("a", add_special_tokens=True)[:1] == [bos]


def ends_a_turn(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """True for special tokens that a template or a model ends a turn with."""
    # <unk> may stand for a real symbol, and some tokenizers pad with it.
    if token in (tokenizer.unk_token_id, tokenizer.pad_token_id):
        return token == tokenizer.eos_token_id
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and added.special
