"""Records on disk: `part-*.parquet` files in a step's folder, one record a row, each part written
atomically.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from align.errors import DataError
from align.records import Judgement, Pair, Prompt, Sample, Score, canonical_json

Record = TypeVar("Record", Prompt, Sample, Score, Pair, Judgement)

_IDS = pa.list_(pa.int32())
SCHEMAS: dict[type, pa.Schema] = {
    Prompt: pa.schema(
        {
            "prompt_id": pa.string(),
            "messages": pa.string(),
            "answer": pa.string(),
            "source": pa.string(),
            "meta": pa.string(),
        }
    ),
    Sample: pa.schema(
        {
            "sample_id": pa.string(),
            "prompt_id": pa.string(),
            "index": pa.int32(),
            "policy": pa.string(),
            "prompt_ids": _IDS,
            "completion_ids": _IDS,
            "loss_mask": pa.list_(pa.int8()),
            "logps": pa.list_(pa.float32()),
            "text": pa.string(),
            "finish": pa.string(),
            "temperature": pa.float64(),
            "top_p": pa.float64(),
            "top_k": pa.int32(),
            "seed": pa.int64(),
            "weight_versions": _IDS,
            "meta": pa.string(),
        }
    ),
    Score: pa.schema(
        {
            "sample_id": pa.string(),
            "value": pa.float64(),
            "parts": pa.string(),
            "spans": pa.list_(pa.list_(pa.float64(), 3)),
            "error": pa.string(),
        }
    ),
    Pair: pa.schema({"chosen": pa.string(), "rejected": pa.string(), "margin": pa.float64()}),
    Judgement: pa.schema(
        {
            "prompt_id": pa.string(),
            "sample_ids": pa.list_(pa.string()),
            "preferences": pa.list_(pa.list_(pa.float64())),
        }
    ),
}
_JSON_COLUMNS = {"messages", "answer", "meta", "parts"}
_SORT_KEYS = {
    "prompt_id": "prompt_id",
    "index": "index",
    "sample_id": "sample_id",
    "chosen": "chosen",
    "rejected": "rejected",
}


def part_path(folder: Path, index: int) -> Path:
    """Where part `index` of a step lies."""
    return folder / f"part-{index:05d}.parquet"


def parts(folder: Path) -> list[Path]:
    """All finished parts of a step, in order."""
    return sorted(folder.glob("part-*.parquet"))


def write_part(folder: Path, index: int, records: Sequence[Record], kind: type[Record]) -> Path:
    """Writes one part so that it is either whole or absent (temporary file, fsync, rename); returns
    its path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        name: _encode(name, list(map(attrgetter(name), records))) for name in SCHEMAS[kind].names
    }
    table = pa.table(columns, schema=SCHEMAS[kind])
    path = part_path(folder, index)
    with whole_or_absent(path) as temporary, temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())
    return path


def beside(path: Path) -> Path:
    """A hidden name beside `path` that nobody else uses; processes of two nodes may have one
    number.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, renamed to it at the end.

    Where that fails nothing is left behind, and the `OSError` names `path`: that of a write to a
    full disk names no file.
    """
    temporary = beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def read_part(path: Path, kind: type[Record]) -> list[Record]:
    """The records of one part; raises `DataError` where the file is damaged or holds other
    records.
    """
    return [kind(*row) for row in zip(*_columns(path, kind), strict=True)]


def _columns(path: Path, kind: type, names: Sequence[str] | None = None) -> list[list[Any]]:
    """The values of these columns; of all in the order of the record's fields by default."""
    table = _table(path, names)
    wanted = SCHEMAS[kind].names if names is None else list(names)
    if table.schema.names != wanted:
        raise DataError(
            f"{path} does not hold {kind.__name__} records; its columns are {table.schema.names}"
        )
    # by column: boxing each value costs four times as much as all the rest
    return [_decode(name, _values(_whole(table[name]))) for name in wanted]


def is_damaged(path: Path) -> bool:
    """Whether the part does not hold the bytes that were written."""
    try:
        _table(path)
    except DataError:
        return True
    return False


def _table(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    try:
        # one thread: parts are small, and others have work for the cores
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns=names and list(names), use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); restore it, or make its step again (--redo)"
        ) from error


def read_records(folder: Path, kind: type[Record]) -> list[Record]:
    """All records of a step, part by part; raises `DataError` where there is no part."""
    with _without_collector():
        return [record for path in _some_parts(folder) for record in read_part(path, kind)]


def read_columns(folder: Path, kind: type[Record], *names: str) -> list[tuple[Any, ...]]:
    """These fields of all records of a step, which is much faster than whole records; raises
    `DataError` where there is no part.
    """
    with _without_collector():
        columns = [_columns(path, kind, names) for path in _some_parts(folder)]
        return [row for part in columns for row in zip(*part, strict=True)]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows hold no cycles; looking for some while they are made takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _some_parts(folder: Path) -> list[Path]:
    files = parts(folder)
    if not files:
        raise DataError(f"{folder} holds no part-*.parquet files")
    return files


def content_hash(folder: Path) -> str:
    """SHA-256 of all rows in the order of their ids: how they were split into parts does not
    matter.
    """
    tables = [_table(path) for path in parts(folder)]
    if not tables:
        return hashlib.sha256(b"").hexdigest()
    table = pa.concat_tables(tables).combine_chunks()
    keys = [(key, "ascending") for key in _SORT_KEYS if key in table.column_names]
    table = table.sort_by(keys)
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        digest.update(name.encode())
        _hash_column(digest, _whole(table[name]))
    return digest.hexdigest()


def _hash_column(digest: hashlib._Hash, column: pa.Array) -> None:
    digest.update(column.is_null().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        digest.update(canonical_json(_lengths(column, -1).tolist()).encode())
        _hash_column(digest, column.flatten())
    elif pa.types.is_string(column.type):
        digest.update(canonical_json(_values(column)).encode())
    else:
        digest.update(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _encode(name: str, values: list[Any]) -> list[Any]:
    if name in _JSON_COLUMNS:
        return [None if value is None else canonical_json(value) for value in values]
    return values


def _lengths(column: pa.Array, missing: int) -> np.ndarray:
    return pc.call_function("list_value_length", [column]).fill_null(missing).to_numpy()


def _values(column: pa.Array) -> list[Any]:
    """Its values as Python's own, lists as tuples."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = _lengths(column, 0)
        ends = lengths.cumsum()
        flat = _values(column.flatten())
        rows = [
            tuple(flat[start:end])
            for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)
        ]
        if column.null_count:
            present = column.is_valid().to_numpy(zero_copy_only=False)
            rows = [row if is_there else None for row, is_there in zip(rows, present, strict=True)]
        return rows
    if column.null_count and not pa.types.is_string(kind):
        return column.to_pylist()  # numpy has no missing numbers
    return column.to_numpy(zero_copy_only=False).tolist()


def _decode(name: str, values: list[Any]) -> list[Any]:
    if name == "messages":
        return [tuple(json.loads(value)) for value in values]
    if name in _JSON_COLUMNS:
        return [None if value is None else json.loads(value) for value in values]
    if name == "spans":
        return [tuple((int(a), int(b), c) for a, b, c in value or ()) for value in values]
    return values
