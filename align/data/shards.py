"""Records on disk: `part-*.parquet` files in a step's folder, one record a row, each part written
atomically.
"""

from __future__ import annotations

import gc
import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.columns import SCHEMAS, add_column, table_of, values_of, whole
from align.errors import DataError
from align.records import Judgement, Pair, Prompt, Sample, Score

Record = TypeVar("Record", Prompt, Sample, Score, Pair, Judgement)

_SORT_KEYS = ("prompt_id", "index", "sample_id", "chosen", "rejected")


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
    table = table_of(records, kind)
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
    if set(table.column_names) != set(wanted):
        raise DataError(
            f"{path} does not hold {kind.__name__} records; its columns are {table.column_names}"
        )
    # Other tools write the same values as other types, e.g. lists with longer offsets.
    own = pa.schema([SCHEMAS[kind].field(name) for name in wanted])
    try:
        return values_of(table.select(wanted).cast(own))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path} does not hold {kind.__name__} records: {error}") from error


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
        add_column(digest, whole(table[name]))
    return digest.hexdigest()
