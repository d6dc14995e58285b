"""Split expressions like `train[:100]` or `train+dev[10%:]`, and whether a built-in data set has
what they name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from align import registry
from align.errors import DataError
from align.recipe.parts import sources
from align.recipe.problems import Problem, describe
from align.recipe.sections import Recipe

Problems: TypeAlias = Iterator[Problem]

_PART = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<start>-?\d+%?)?:(?P<end>-?\d+%?)?\])?")


@dataclass(frozen=True, slots=True)
class SplitPart:
    """One summand of a split expression."""

    name: str
    start: str | None = None
    end: str | None = None

    def bounds(self, size: int) -> tuple[int, int]:
        """First and end index among `size` rows; `%` is of the rows, rounded to the nearest."""
        start = 0 if self.start is None else _place(self.start, size)
        end = size if self.end is None else _place(self.end, size)
        return start, max(start, end)


def parse_split(expression: str) -> list[SplitPart]:
    """The parts of a split expression. `"train[:10%]+dev"` has two. Raises `DataError` where it is
    malformed.
    """
    found: list[SplitPart] = []
    for text in expression.split("+"):
        match = _PART.fullmatch(text.strip())
        if match is None:
            raise DataError(
                f"split {expression!r} is not understood; write a name, or a slice like "
                "train[:100] or train[90%:]"
            )
        found.append(SplitPart(match["name"], match["start"], match["end"]))
    return found


def _place(text: str, size: int) -> int:
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return min(size, max(0, value + size if value < 0 else value))


@runtime_checkable
class Divided(Protocol):
    """A data set that names its splits."""

    splits: ClassVar[tuple[str, ...]]


def check_splits(recipe: Recipe) -> Problems:
    """Splits that a data set of a recipe by `name` lacks; neither files nor the Hub are read."""
    for key, source in sources(recipe):
        if source.name is None:
            continue
        data = registry.check("dataset", source.name, source.options).config
        try:
            parts = parse_split(source.split)
        except DataError:
            message = f"is {describe(source.split)}, which is not understood"
            remedy = "write a name, or a slice like train[:100] or train[90%:]"
            yield Problem((*key, "split"), message, remedy)
            continue
        if not isinstance(data, Divided):
            continue
        for part in parts:
            if part.name not in data.splits:
                message = f'names "{part.name}", which is no split of {source.name}'
                yield Problem((*key, "split"), message, f"it has {', '.join(data.splits)}")
