"""The one place where turns become text and text becomes tokens: prompts, completions, both
together.

Rules (ALGORITHMS 0.3.4, 1.4), the same for sampling, SFT, reward models and preference data:

- a prompt's ids are those of its rendered text up to the assistant's header; a sampler continues
  exactly these;
- prompt and completion are rendered and tokenised together, and the boundary is where the prompt's
  ids end. Where a token would span it, the prompt keeps its own ids and the completion is spelled
  without that merge (counted);
- one BOS where the tokenizer adds one by itself or the template writes one, never two;
- a finished assistant turn ends with its end token, an unfinished one has none. What the template
  writes after the end token (a newline) belongs to no completion: a sampler has stopped by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from align.data.seams import adds_bos, encode_segments, encode_text, ends_a_turn
from align.data.templates import NONE, find_template
from align.errors import DataError
from align.records import Turn, canonical_json

TEXT_ROLE = "text"
_STAND_IN = "\u27e6text\u27e7"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt and what follows it, as ids."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    """1 on the assistant's tokens, its end token included; as long as `completion_ids`."""
    seam_merges: int = 0
    """Boundaries that a token of the joint text would have spanned."""


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], chat_template: str | None
) -> list[int]:
    """Ids that a sampler continues. Raises `DataError` where the turns fit no template."""
    return encode_text(tokenizer, _prompt_text(tokenizer, messages, chat_template))


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    completion: str | Sequence[Turn],
    chat_template: str | None,
    *,
    finished: bool = True,
    end_id: int | None = None,
) -> tuple[list[int], list[int]]:
    """Prompt ids and completion ids; see `encode`."""
    encoded = encode(
        tokenizer, messages, completion, chat_template, finished=finished, end_id=end_id
    )
    return list(encoded.prompt_ids), list(encoded.completion_ids)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    completion: str | Sequence[Turn],
    chat_template: str | None,
    *,
    finished: bool = True,
    end_id: int | None = None,
) -> Encoded:
    """Prompt and completion, tokenised together.

    `completion` is the assistant's text or turns that begin and end with the assistant's (turns of
    others in between carry no loss). `end_id` ends a finished turn where the template writes no end
    token; default: the tokenizer's. Raises `DataError` where the template does not keep the prompt
    in front of the completion.
    """
    turns = (
        [{"role": "assistant", "content": completion}]
        if isinstance(completion, str)
        else list(completion)
    )
    if not turns or turns[0].get("role") != "assistant" or turns[-1].get("role") != "assistant":
        raise DataError("a completion must begin and end with an assistant turn")
    segments, trained = _split(tokenizer, messages, turns, chat_template, finished)
    pieces, merges = encode_segments(tokenizer, segments)
    ids = [token for piece in pieces[1:] for token in piece]
    mask = [flag for piece, flag in zip(pieces[1:], trained, strict=True) for _ in piece]
    if finished and not (ids and ends_a_turn(tokenizer, ids[-1])):
        ids.append(_end_id(tokenizer, end_id))
        mask.append(1)
    return Encoded(tuple(pieces[0]), tuple(ids), tuple(mask), merges)


def encode_headless(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    reply: str,
    chat_template: str | None,
) -> Encoded:
    """The turns without the assistant's header and without BOS, and the reply right behind them
    without an end token: how RLHFlow's pair-preference models were trained and are read
    (ALGORITHMS 2.2). Plain text has no header, so there it is `encode` of an unfinished reply.
    """
    if _is_plain(tokenizer, messages, chat_template):
        return encode(tokenizer, messages, reply, chat_template, finished=False)
    asked = _render(tokenizer, messages, chat_template)
    bos = tokenizer.bos_token
    if isinstance(bos, str):
        asked = asked.replace(bos, "")
    (before, after), merges = encode_segments(tokenizer, [asked, reply])
    if before[:1] == [tokenizer.bos_token_id]:
        before = before[1:]
    return Encoded(tuple(before), tuple(after), (1,) * len(after), merges)


def written_out(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    completion: str,
    chat_template: str | None,
    *,
    finished: bool = True,
) -> tuple[list[str], bool]:
    """The texts of the prompt and of the completion, for models that tokenise them in another way
    than one behind the other; True where they are plain text. Raises `DataError` as `encode`.
    """
    turns: list[Turn] = [{"role": "assistant", "content": completion}]
    segments, _ = _split(tokenizer, messages, turns, chat_template, finished)
    return segments, _is_plain(tokenizer, messages, chat_template)


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], completion_ids: Sequence[int]
) -> str:
    """Text of a completion as it reads after its prompt (leading space kept), without special
    tokens.
    """
    # Decoded alone, a SentencePiece-like decoder strips the space that the completion begins with.
    before = tokenizer.decode(list(prompt_ids), skip_special_tokens=True)
    both = tokenizer.decode([*prompt_ids, *completion_ids], skip_special_tokens=True)
    if isinstance(before, str) and isinstance(both, str) and both.startswith(before):
        return both[len(before) :]
    alone = tokenizer.decode(list(completion_ids), skip_special_tokens=True)
    return alone if isinstance(alone, str) else "".join(alone)


def end_ids(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> list[int]:
    """Ids that end an assistant turn of finished completions: what a sampler must stop at, beside
    the model's own.
    """
    template = find_template(_own_template(tokenizer), chat_template)
    messages: list[Turn] = [{"role": TEXT_ROLE if template is None else "user", "content": "a"}]
    try:
        last = encode(tokenizer, messages, "a", chat_template).completion_ids[-1]
    except DataError:
        return []
    return [last]


def template_hash(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> str:
    """First 16 hex digits over everything that decides how turns become ids, the vocabulary
    aside.
    """
    template = find_template(_own_template(tokenizer), chat_template)
    parts = [template, tokenizer.bos_token, tokenizer.eos_token, adds_bos(tokenizer)]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _split(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    turns: Sequence[Turn],
    chat_template: str | None,
    finished: bool,
) -> tuple[list[str], list[int]]:
    """Text in segments (prompt first) and, for each later segment, whether it carries loss."""
    segments = [_prompt_text(tokenizer, messages, chat_template)]
    trained: list[int] = []
    if _is_plain(tokenizer, messages, chat_template):
        for turn in turns:
            segments.append(_text_of(turn))
            trained.append(int(turn.get("role") == "assistant"))
        return segments, trained
    written = segments[0]
    for place, turn in enumerate(turns):
        if turn.get("role") != "assistant":
            continue
        before = [*messages, *turns[:place]]
        if place:
            header = _prompt_text(tokenizer, before, chat_template)
            if not header.startswith(written):
                raise DataError(
                    "the chat template rewrites earlier turns, so that they cannot all carry loss; "
                    "give the last assistant turn alone as the completion"
                )
            segments.append(header[len(written) :])
            trained.append(0)
            written = header
        is_open = place == len(turns) - 1 and not finished
        reply = _reply_text(tokenizer, before, written, turn, chat_template, is_open=is_open)
        segments.append(reply)
        trained.append(1)
        written += reply
    return segments, trained


def _reply_text(
    tokenizer: PreTrainedTokenizerBase,
    before: Sequence[Turn],
    header: str,
    turn: Turn,
    chat_template: str | None,
    *,
    is_open: bool,
) -> str:
    """What an assistant turn adds after its header: its content and, unless `is_open`, the end of
    the turn.
    """
    content = _text_of(turn)
    # A stand-in shows what the template writes around a text, whatever the text is, and whether it
    # trims it.
    frame = _render(tokenizer, [*before, {**turn, "content": f" {_STAND_IN} "}], chat_template)
    start = frame.rfind(_STAND_IN)
    if start < 0 or not frame.startswith(header):
        raise DataError(
            "the chat template does not write the assistant's text after the header of its turn"
        )
    is_kept = f" {_STAND_IN} " in frame
    start, end = (start - is_kept, start + len(_STAND_IN) + is_kept)
    bare = content if is_kept else content.strip()
    # Between header and text a template may write an empty thinking block, which a text that brings
    # one replaces.
    lead = frame[len(header) : start]
    whole = (
        _render(tokenizer, [*before, turn], chat_template) if lead.strip() else header + lead + bare
    )
    if not whole.startswith(header + lead + bare):
        lead = ""
    return lead + bare + ("" if is_open else frame[end:].rstrip())


def _prompt_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], chat_template: str | None
) -> str:
    if not messages or messages[-1].get("role") == "assistant":
        raise DataError("a prompt needs at least one turn and must not end with the assistant's")
    if _is_plain(tokenizer, messages, chat_template):
        return "".join(_text_of(turn) for turn in messages)
    return _render(tokenizer, messages, chat_template, add_generation_prompt=True)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    chat_template: str | None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    template = find_template(_own_template(tokenizer), chat_template)
    try:
        text = tokenizer.apply_chat_template(
            cast(list[dict[str, str]], [dict(turn) for turn in messages]),
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            # encoders have none; what ends their segments ends their turns
            eos_token=tokenizer.eos_token or tokenizer.sep_token or "",
        )
    except (TemplateError, TypeError) as error:
        roles = [turn.get("role") for turn in messages]
        raise DataError(
            f"the chat template refuses turns with the roles {roles}: {error}"
        ) from error
    if not isinstance(text, str):
        raise DataError("the chat template rendered no text")
    return text


def _is_plain(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], chat_template: str | None
) -> bool:
    """True for plain-text prompts and for `none`; raises `DataError` for chat turns without any
    template.
    """
    roles = {str(turn.get("role")) for turn in messages}
    if roles == {TEXT_ROLE}:
        return True
    if TEXT_ROLE in roles:
        raise DataError("a prompt mixes plain text with chat turns; give one or the other")
    if find_template(_own_template(tokenizer), chat_template) is None:
        if chat_template == NONE:
            return True
        raise DataError(
            "the prompts are chat turns but the tokenizer has no chat template; set "
            "policy.chat_template to chatml, plain, a .jinja file, or none for plain concatenation"
        )
    return False


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def _text_of(turn: Turn) -> str:
    content = turn.get("content")
    if not isinstance(content, str):
        raise DataError(f"a turn's content must be text here, not {type(content).__name__}")
    return content


def _end_id(tokenizer: PreTrainedTokenizerBase, end_id: int | None) -> int:
    found = tokenizer.eos_token_id if end_id is None else end_id
    if not isinstance(found, int):
        raise DataError(
            "the tokenizer has no end token; set its eos_token so that finished completions can end"
        )
    return found
