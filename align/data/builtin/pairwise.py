r"""`pairwise`: preferences as demonstrations for a generative preference model (ALGORITHMS 2.2).

One user message, `[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n`, and the reply `A` or
`B`; where the chosen completion stands is drawn for each row, which is the only debiasing at
training time. `rewards/comparer.py` asks with the same text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from typing import ClassVar

from pydantic import ConfigDict

from align.data.convert import Preference, to_preferences
from align.data.sources import read_rows
from align.errors import DataError
from align.recipe.sections import Source
from align.records import Turn, derive_seed

LABELS = ("A", "B")
_LOGGER = getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Where the preferences lie."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str
    """Hub id, file or folder of preference rows, as in `data`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name: theirs."""


@dataclass(frozen=True)
class Pairwise:
    """Rows of a preference source that RLHF Workflow's filter keeps: roles that alternate, one
    reply a side, nothing empty. Equal sides and rows said to be ties are left out too.
    """

    of: Rows
    """`{path: ...}` of the preferences."""
    slot: str = "RESPONSE"
    """Name of the two slots; RSO uses `SUMMARY` for summarisation. As in `pairwise_model`."""

    def rows(self, split: str, seed: int) -> Iterator[dict[str, object]]:
        """Rows of `prompt` (one user turn) and `completion` (`A` or `B`), in an order drawn from
        `seed`. Raises `DataError` where none is left, with what became of them.
        """
        return iter(self.sift(split, seed)[0])

    def sift(self, split: str, seed: int) -> tuple[list[dict[str, object]], Mapping[str, int]]:
        """The same rows, and how many others were left out for which reason."""
        source = Source(path=self.of.path, split=split, columns=dict(self.of.columns))
        cleaned = to_preferences(read_rows(source, seed=seed))
        counts = Counter(cleaned.counts)
        found: list[dict[str, object]] = []
        for item in cleaned.rows:
            fault = why_unfit(item)
            if fault is None:
                found.append(self._row(item, seed))
            else:
                counts[fault] += 1
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        if not found:
            raise DataError(f"{self.of.path}: no preference is left to compare: {said}")
        if len(found) < counts["read"]:
            _LOGGER.warning("%s: %d rows make comparisons (%s)", self.of.path, len(found), said)
        return found, {name: n for name, n in counts.items() if name not in ("read", "kept")}

    def _row(self, item: Preference, seed: int) -> dict[str, object]:
        chosen, rejected = str(item.chosen[0]["content"]), str(item.rejected[0]["content"])
        key = (item.prompt.prompt_id, chosen, rejected)
        first = derive_seed("pairwise", seed, *key) % 2 == 0
        sides = (chosen, rejected) if first else (rejected, chosen)
        text = comparison_text(item.prompt.messages, *sides, self.slot)
        return {
            "prompt": [{"role": "user", "content": text}],
            "completion": [{"role": "assistant", "content": LABELS[0 if first else 1]}],
        }


def why_unfit(item: Preference) -> str | None:
    """The count that a row goes to which cannot be compared, or None."""
    if item.is_tie:
        return "tie"
    if len(item.chosen) != 1 or len(item.rejected) != 1:
        return "several_turns"
    roles = [turn.get("role") for turn in item.prompt.messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    wanted = ["user" if place % 2 == 0 else "assistant" for place in range(len(spoken))]
    if roles != ["text"] and (not spoken or spoken != wanted):
        return "not_alternating"
    texts = [turn.get("content") for turn in (*item.chosen, *item.rejected)]
    return None if all(isinstance(text, str) for text in texts) else "not_text"


def comparison_text(messages: Sequence[Turn], first: str, second: str, slot: str) -> str:
    r"""The question: `[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n`."""
    context = render_context(messages)
    return f"[CONTEXT] {context} [{slot} A] {first} [{slot} B] {second} \n"


def render_context(messages: Sequence[Turn]) -> str:
    """The conversation as the released pair models saw it: each turn introduced by its role on a
    line of its own.
    """
    names = {"text": "user"}
    turns = (
        f"\n<turn> {names.get(str(turn['role']), turn['role'])}\n {turn['content']}"
        for turn in messages
    )
    return "\n" + "".join(turns) + "\n"
