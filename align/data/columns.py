"""Records as columns of a table, and back.

A column is decoded at once: boxing each value costs four times as much as all the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.records import Judgement, Pair, Prompt, Sample, Score, canonical_json

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
_JSON = {"messages", "answer", "meta", "parts"}
"""Fields whose values are stored as JSON."""


def table_of(records: Sequence[object], kind: type) -> pa.Table:
    """Records of one kind, one a row."""
    names = SCHEMAS[kind].names
    columns = {name: _encoded(name, list(map(attrgetter(name), records))) for name in names}
    return pa.table(columns, schema=SCHEMAS[kind])


def values_of(table: pa.Table) -> list[list[Any]]:
    """The values of each column, as the records hold them."""
    return [_decoded(name, _values(whole(table[name]))) for name in table.column_names]


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def add_column(digest: hashlib._Hash, column: pa.Array) -> None:
    """Adds the values to a hash."""
    digest.update(column.is_null().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        digest.update(canonical_json(_lengths(column, -1).tolist()).encode())
        add_column(digest, column.flatten())
    elif pa.types.is_string(column.type):
        digest.update(canonical_json(_values(column)).encode())
    else:
        digest.update(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())


def _encoded(name: str, values: list[Any]) -> list[Any]:
    if name in _JSON:
        return [None if value is None else canonical_json(value) for value in values]
    return values


def _decoded(name: str, values: list[Any]) -> list[Any]:
    if name == "messages":
        return [tuple(json.loads(value)) for value in values]
    if name in _JSON:
        return [None if value is None else json.loads(value) for value in values]
    if name == "spans":
        return [tuple((int(a), int(b), c) for a, b, c in value or ()) for value in values]
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
