"""One row as it was read, before anybody knows what kind of row it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from align.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """Columns of one row, under our names where `columns` maps them."""

    values: Mapping[str, object]
    source: str = ""
    """Name of the data set; becomes `Prompt.source`."""
    place: str = ""
    """`file:row` (rows count from 1), for messages."""

    def fault(self, message: str) -> DataError:
        """An error that says where the row is."""
        return DataError(f"{self.place}: {message}" if self.place else message)


def rename_columns(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with `columns` (ours: theirs) applied. Raises `DataError` where their column is
    missing.

    `{prompt: question, answer: final}` takes `question` for the prompt and replaces a column
    `answer` by `final`.
    """
    if not columns:
        return row
    missing = [name for name in columns.values() if name not in row.values]
    if missing:
        raise row.fault(
            f"there is no column {missing[0]!r}; the row has {sorted(row.values)}; correct "
            "`columns`"
        )
    taken = set(columns.values())
    values = {name: value for name, value in row.values.items() if name not in taken}
    values |= {ours: row.values[theirs] for ours, theirs in columns.items()}
    return Row(values, row.source, row.place)
