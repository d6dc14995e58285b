"""Columns to turns: strings or lists of turns, and the prompt that chosen and rejected have in
common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from align.data.rows import Row
from align.records import Json, Turn

ROLES = ("system", "user", "assistant", "tool")
_ASSISTANT_MARK = "\n\nAssistant:"
"""Header of a reply in HH-RLHF's plain-text form."""


def read_turns(row: Row, column: str) -> str | tuple[Turn, ...]:
    """A column as it is written: plain text, or checked turns. Raises the row's fault for anything
    else.
    """
    value = row.values[column]
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        raise row.fault(
            f"column {column!r} is {type(value).__name__}; expected text or a list of turns"
        )
    return tuple(_turn(row, column, item) for item in value)


def as_messages(prompt: str | tuple[Turn, ...], *, is_chat: bool) -> tuple[Turn, ...]:
    """A prompt as turns: plain text is one turn of role `text`, or of role `user` where the reply
    is a turn.
    """
    if isinstance(prompt, str):
        return ({"role": "user" if is_chat else "text", "content": prompt},)
    return prompt


def as_reply(completion: str | tuple[Turn, ...]) -> tuple[Turn, ...]:
    """A completion as turns, the first and the last of them the assistant's."""
    if isinstance(completion, str):
        return ({"role": "assistant", "content": completion},)
    return completion


def is_blank(turns: Sequence[Turn]) -> bool:
    """True where there are no turns or one says nothing at all."""
    return not turns or any(not _says_something(turn) for turn in turns)


def is_reply(turns: Sequence[Turn]) -> bool:
    """True where turns begin and end with the assistant's."""
    return bool(turns) and turns[0]["role"] == "assistant" and turns[-1]["role"] == "assistant"


def split_dialogue(turns: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """Prompt and completion of a dialogue: the completion runs from the first to the last assistant
    turn.

    Every assistant turn of it carries loss (ALGORITHMS 1.1 c); what follows the last one is
    dropped.
    """
    places = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not places:
        return turns, ()
    return turns[: places[0]], turns[places[0] : places[-1] + 1]


def extract_prompt(
    chosen: str | tuple[Turn, ...], rejected: str | tuple[Turn, ...]
) -> tuple[str | tuple[Turn, ...], str | tuple[Turn, ...], str | tuple[Turn, ...]] | None:
    """Prompt, chosen and rejected where both begin with the prompt (an implicit prompt), or None
    where none is found.

    Turns: the longest common beginning that leaves each side a reply. Text: HH-RLHF's last common
    `Assistant:` header where there is one, else the common beginning up to its last space, which
    goes to the replies.

        extract_prompt("The sky is blue", "The sky is green") == ("The sky is", " blue", " green")
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _extract_text(chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        return None
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    for cut in range(shared, 0, -1):
        prompt, one, other = chosen[:cut], chosen[cut:], rejected[cut:]
        if prompt[-1]["role"] != "assistant" and is_reply(one) and is_reply(other):
            return prompt, one, other
    return None


def json_columns(row: Row, used: Sequence[str]) -> Json:
    """The columns that are not `used`, for `Prompt.meta`; columns that JSON cannot hold (images,
    dates) are left out.
    """
    kept: dict[str, Json] = {}
    for name, value in row.values.items():
        if name in used or value is None:
            continue
        try:
            kept[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return kept or None


def _extract_text(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    mark = chosen.rfind(_ASSISTANT_MARK, 0, shared)
    if mark >= 0:
        cut = mark + len(_ASSISTANT_MARK)
    else:
        cut = max(chosen.rfind(space, 0, shared + 1) for space in (" ", "\n"))
    if cut <= 0:
        return None
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _turn(row: Row, column: str, item: object) -> Turn:
    if not isinstance(item, Mapping):
        raise row.fault(
            f"column {column!r} lists {type(item).__name__}; expected turns with role and content"
        )
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise row.fault(
            f"column {column!r} has a turn with the role {role!r}; expected {', '.join(ROLES)}"
        )
    if not isinstance(content, (str, list)) and not item.get("tool_calls"):
        raise row.fault(
            f"column {column!r} has a turn of {role} whose content is {type(content).__name__}"
        )
    return {key: value for key, value in item.items() if value is not None}


def _says_something(turn: Turn) -> bool:
    content = turn.get("content")
    if isinstance(content, str) and not content.strip():
        return bool(turn.get("tool_calls"))
    return bool(content) or bool(turn.get("tool_calls"))
