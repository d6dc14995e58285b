"""Rows from files: JSON lines (plain or gzipped), JSON arrays, parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.columns import SCHEMAS
from align.data.rows import Row
from align.data.shards import read_part
from align.errors import DataError
from align.records import Prompt


def read_file(path: Path, source: str) -> Iterator[Row]:
    """The rows of one file, in order. A part of our own prompt records gives rows with `prompt`,
    `answer`, `meta`.

    Raises `DataError` with file and row where something cannot be read: broken rows are never
    skipped.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _read_parquet(path, source)
    elif name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_lines(path, source)
    else:
        yield from _read_array(path, source)


def _read_lines(path: Path, source: str) -> Iterator[Row]:
    number = 0
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _as_row(json.loads(line), source, f"{path}:{number}")
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{number}: this line is not JSON ({error.msg} at column {error.colno}); "
            "correct or remove it"
        ) from error
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read after row {number} ({error}); copy the file again"
        ) from error


def _read_array(path: Path, source: str) -> Iterator[Row]:
    try:
        with _open_text(path) as file:
            rows = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); one object a line belongs into a "
            ".jsonl file"
        ) from error
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds one {type(rows).__name__}; expected a list of rows")
    for number, row in enumerate(rows, start=1):
        yield _as_row(row, source, f"{path}:{number}")


def _read_parquet(path: Path, source: str) -> Iterator[Row]:
    try:
        names = pq.read_schema(path).names
        for kind, schema in SCHEMAS.items():
            if names == schema.names and kind is not Prompt:
                raise DataError(
                    f"{path}: holds {kind.__name__} records, not rows of text; stored samples are "
                    "read by "
                    "`generate: {name: stored, path: ...}`"
                )
        if names == SCHEMAS[Prompt].names:
            for number, prompt in enumerate(read_part(path, Prompt), start=1):
                yield _from_prompt(prompt, source, f"{path}:{number}")
            return
        for number, values in enumerate(_parquet_values(path), start=1):
            yield Row(values, source, f"{path}:{number}")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again") from error


def _parquet_values(path: Path) -> Iterator[Mapping[str, object]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _from_prompt(prompt: Prompt, source: str, place: str) -> Row:
    first = prompt.messages[0]
    text = first.get("content") if first.get("role") == "text" else None
    values: dict[str, object] = {"prompt": prompt.messages if text is None else text}
    values |= {} if prompt.answer is None else {"answer": prompt.answer}
    values |= prompt.meta if isinstance(prompt.meta, Mapping) else {}
    return Row(values, prompt.source or source, place)


def _open_text(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8"))
    return path.open(encoding="utf-8")


def _as_row(value: object, source: str, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: a row must be an object with columns, not {type(value).__name__}"
        )
    return Row(value, source, place)
