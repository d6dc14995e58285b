"""Rows to prompts, demonstrations, preferences and labelled completions. What is left out is
counted, never silent.

A row is recognised by its columns (after the recipe's `columns`), in this order:

    chosen, rejected [, prompt, margin]    preference; without `prompt` it is what both begin with
    prompt, completion, label              labelled completion
    prompt, completion                     demonstration
    messages                               dialogue; all its assistant turns are the completion
    prompt                                 prompt only

Each of these may be text or turns. `answer` goes to `Prompt.answer`, other columns to
`Prompt.meta`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from align.data.rows import Row
from align.data.turns import (
    as_messages,
    as_reply,
    extract_prompt,
    is_blank,
    is_reply,
    json_columns,
    read_turns,
    split_dialogue,
)
from align.recipe.values import is_number
from align.records import Json, Prompt, Turn, canonical_json, content_id

Kind = Literal["preference", "labelled", "demonstration", "dialogue", "prompt"]
_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "labelled": ("prompt", "completion", "label"),
    "demonstration": ("prompt", "completion"),
    "dialogue": ("messages",),
    "prompt": ("prompt",),
}
_USED = (
    *("prompt", "completion", "label", "messages", "chosen", "rejected"),
    *("answer", "margin", "tie", "truncated", "finish"),
)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and turns that show what to say; the assistant's among them carry loss."""

    prompt: Prompt
    completion: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions of one prompt, the first preferred."""

    prompt: Prompt
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    margin: float = 0.0
    is_tie: bool = False
    """True where the row says so: `tie: true`, `label: 0.5`, or a `margin` of 0."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A completion and whether it is wanted."""

    prompt: Prompt
    completion: tuple[Turn, ...]
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Cleaned(Generic[Item]):
    """What was kept, in order, and what became of all rows."""

    rows: tuple[Item, ...]
    counts: Mapping[str, int]
    """`read`, `kept`, and the reasons for the others: `empty`, `duplicate`, `identical`,
    `truncated`, `no_prompt`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is left out, and the count that it goes to."""

    reason: str


def kind_of(row: Row) -> Kind:
    """What kind of row this is. Raises the row's fault where its columns fit none."""
    for kind, columns in _COLUMNS.items():
        if all(row.values.get(name) is not None for name in columns):
            return kind
    raise row.fault(
        f"the columns {sorted(row.values)} make no prompt, dialogue, preference or labelled "
        "completion; "
        "map them with `columns`, e.g. {prompt: question, completion: answer}"
    )


def to_prompts(rows: Iterable[Row]) -> Cleaned[Prompt]:
    """The prompts of rows of any kind; of a dialogue, all turns before its last assistant turn."""
    return _clean(rows, _prompt, lambda prompt: prompt.prompt_id)


def to_demonstrations(rows: Iterable[Row]) -> Cleaned[Demonstration]:
    """Demonstrations; of preferences the chosen side, of labelled completions the wanted ones.

    Raises the row's fault where it has a prompt only.
    """
    return _clean(
        rows, _demonstration, lambda item: content_id(item.prompt.messages, item.completion)
    )


def to_preferences(rows: Iterable[Row]) -> Cleaned[Preference]:
    """Preferences. Raises the row's fault where it has no chosen and rejected."""
    return _clean(
        rows, _preference, lambda item: content_id(item.prompt.messages, item.chosen, item.rejected)
    )


def to_labelled(rows: Iterable[Row]) -> Cleaned[Labelled]:
    """Labelled completions. Raises the row's fault where it has no label of true, false, 1, 0 or
    -1.
    """
    return _clean(rows, _labelled, lambda item: content_id(item.prompt.messages, item.completion))


def _clean(
    rows: Iterable[Row],
    convert: Callable[[Row], Item | Dropped],
    key: Callable[[Item], Hashable],
) -> Cleaned[Item]:
    counts = Counter({"read": 0, "kept": 0, "empty": 0, "duplicate": 0})
    kept: dict[Hashable, Item] = {}
    for row in rows:
        counts["read"] += 1
        item = convert(row)
        if isinstance(item, Dropped):
            counts[item.reason] += 1
        elif key(item) in kept:
            counts["duplicate"] += 1
        else:
            kept[key(item)] = item
    counts["kept"] = len(kept)
    return Cleaned(tuple(kept.values()), dict(counts))


def _prompt(row: Row) -> Prompt | Dropped:
    match kind_of(row):
        case "preference":
            item = _preference(row, is_strict=False)
            return item if isinstance(item, Dropped) else item.prompt
        case "dialogue":
            turns = as_messages(read_turns(row, "messages"), is_chat=False)
            last = max(
                (i for i, turn in enumerate(turns) if turn["role"] == "assistant"),
                default=len(turns),
            )
            # A dialogue that goes on after its last reply asks something: it is a prompt as it
            # stands.
            messages = turns[:last] if last == len(turns) - 1 else turns
        case "labelled" | "demonstration":
            messages = _both(row)[0]
        case "prompt":
            messages = as_messages(read_turns(row, "prompt"), is_chat=False)
    return Dropped("empty") if is_blank(messages) else _make_prompt(row, messages)


def _demonstration(row: Row) -> Demonstration | Dropped:
    match kind_of(row):
        case "preference":
            item = _preference(row)
            return item if isinstance(item, Dropped) else Demonstration(item.prompt, item.chosen)
        case "labelled":
            item = _labelled(row)
            if isinstance(item, Dropped):
                return item
            return (
                Demonstration(item.prompt, item.completion)
                if item.is_wanted
                else Dropped("unwanted")
            )
        case "demonstration":
            messages, completion = _both(row)
        case "dialogue":
            messages, completion = split_dialogue(
                as_messages(read_turns(row, "messages"), is_chat=True)
            )
        case "prompt":
            raise row.fault(
                "a prompt without a completion demonstrates nothing; map one with `columns`"
            )
    if is_blank(messages) or is_blank(completion):
        return Dropped("empty")
    if _is_truncated(row):
        return Dropped("truncated")
    return Demonstration(_make_prompt(row, messages), completion)


def _preference(row: Row, *, is_strict: bool = True) -> Preference | Dropped:
    """`is_strict` drops what cannot be trained on; a prompt can be taken from such a row all the
    same.
    """
    if kind_of(row) != "preference":
        raise row.fault(f"expected chosen and rejected; the columns are {sorted(row.values)}")
    chosen, rejected = read_turns(row, "chosen"), read_turns(row, "rejected")
    prompt = read_turns(row, "prompt") if row.values.get("prompt") is not None else None
    holds_prompt = not isinstance(chosen, str) and bool(chosen) and chosen[0]["role"] != "assistant"
    if prompt is None or holds_prompt:
        if not chosen or not rejected:
            return Dropped("empty")
        if chosen == rejected:
            return Dropped("identical")
        found = extract_prompt(chosen, rejected)
        if found is None:
            return Dropped("no_prompt")
        prompt, chosen, rejected = found
    is_chat = not isinstance(chosen, str) or not isinstance(rejected, str)
    messages = as_messages(prompt, is_chat=is_chat)
    one, other = as_reply(chosen), as_reply(rejected)
    if is_blank(messages):
        return Dropped("empty")
    if is_strict:
        if messages[-1]["role"] == "assistant":
            raise row.fault(
                "the prompt ends with the assistant's turn; begin both replies with that turn, or "
                "leave it out"
            )
        if is_blank(one) or is_blank(other):
            return Dropped("empty")
        if one == other:
            return Dropped("identical")
        _check_reply(row, one)
        _check_reply(row, other)
        if _is_truncated(row):
            return Dropped("truncated")
    return Preference(_make_prompt(row, messages), one, other, _margin(row), _is_tie(row))


def _labelled(row: Row) -> Labelled | Dropped:
    if kind_of(row) != "labelled":
        raise row.fault(
            f"expected prompt, completion and label; the columns are {sorted(row.values)}"
        )
    label = row.values["label"]
    if not isinstance(label, (bool, int, float)) or label not in (1, 0, -1):
        raise row.fault(f"the label is {label!r}; expected true or false (or 1 and 0, or 1 and -1)")
    messages, completion = _both(row)
    if is_blank(messages) or is_blank(completion):
        return Dropped("empty")
    return Labelled(_make_prompt(row, messages), completion, label > 0)


def _both(row: Row) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    prompt, completion = read_turns(row, "prompt"), read_turns(row, "completion")
    reply = as_reply(completion)
    if reply:
        _check_reply(row, reply)
    return as_messages(prompt, is_chat=not isinstance(completion, str)), reply


def _check_reply(row: Row, turns: Sequence[Turn]) -> None:
    if not is_reply(turns):
        roles = [turn["role"] for turn in turns]
        raise row.fault(
            f"a completion must begin and end with the assistant; its roles are {roles}"
        )


def _make_prompt(row: Row, messages: Sequence[Turn]) -> Prompt:
    answer = row.values.get("answer")
    return Prompt.of(
        messages, answer=_json(row, answer), source=row.source, meta=json_columns(row, _USED)
    )


def _json(row: Row, answer: object) -> Json:
    try:
        canonical_json(answer)
    except (TypeError, ValueError) as error:
        raise row.fault(f"the answer is {type(answer).__name__}, which JSON cannot hold") from error
    return answer  # pyright: ignore[reportReturnType]  # just checked


def _margin(row: Row) -> float:
    value = row.values.get("margin", 0.0)
    if not is_number(value):
        raise row.fault(f"the margin is {value!r}; expected a finite number, or no column `margin`")
    return float(value)


def _is_tie(row: Row) -> bool:
    tie, label = row.values.get("tie"), row.values.get("label")
    if tie not in (None, True, False):
        raise row.fault(f"tie is {tie!r}; expected true or false")
    return tie is True or label == 0.5 or row.values.get("margin") == 0


def _is_truncated(row: Row) -> bool:
    return row.values.get("truncated") is True or row.values.get("finish") == "length"
