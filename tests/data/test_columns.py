"""Records as columns, and back: nothing is lost, and the hash of rows stays what it was."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.data.columns import SCHEMAS
from align.data.shards import content_hash, read_columns, read_part, read_records, write_part
from align.errors import DataError
from align.records import Judgement, Pair, Prompt, Sample, Score

PROMPTS = [
    Prompt("p", ({"role": "user", "content": "1 + 1?"},), {"answer": [2, None]}, "sums", {"k": 1}),
    Prompt("q", ({"role": "text", "content": "\u00e9"},)),
]
SAMPLES = [
    Sample("a", "p", 0, "w", (1, 2), (3, 4, 5), (1, 1, 0), (-0.5, -0.25, -1.0), "2", "stop"),
    Sample("b", "p", 1, "w", (1, 2), (), (), None, "", "length", 0.7, 0.9, 40, 7, (1, 2), {"x": 1}),
]
SCORES = [
    Score("a", 1.0, {"x": 1.0, "y": None}, ((0, 2, 0.5), (2, 3, -1.0))),
    Score("b", None, error="no answer"),
]
PAIRS = [Pair("a", "b", 1.5), Pair("c", "d")]
KINDS = [
    pytest.param(PROMPTS, Prompt, "f9555ac6", id="prompts"),
    pytest.param(SAMPLES, Sample, "ee610983", id="samples"),
    pytest.param(SCORES, Score, "25ec9a77", id="scores"),
    pytest.param(PAIRS, Pair, "512a8314", id="pairs"),
]


@pytest.mark.parametrize(("records", "kind", "content"), KINDS)
def test_records_come_back_and_their_hash_is_that_of_earlier_versions(
    records: list[Prompt], kind: type[Prompt], content: str, tmp_path: Path
) -> None:
    """Runs and caches that were made before must still be known by their content."""
    assert read_part(write_part(tmp_path / "one", 0, records, kind), kind) == records
    assert content_hash(tmp_path / "one")[:8] == content
    for index, record in enumerate(reversed(records)):
        write_part(tmp_path / "two", index, [record], kind)
    assert read_records(tmp_path / "two", kind) == records[::-1]
    assert content_hash(tmp_path / "two") == content_hash(tmp_path / "one")
    assert read_part(write_part(tmp_path / "none", 0, [], kind), kind) == []


def test_numbers_that_are_none_stay_apart_from_none(tmp_path: Path) -> None:
    write_part(tmp_path, 0, [Score("a", math.nan), Score("b", None), Score("c", math.inf)], Score)
    first, second, third = (score.value for score in read_records(tmp_path, Score))
    assert first is not None and math.isnan(first) and second is None and third == math.inf


def test_a_matrix_keeps_its_rows_and_its_holes(tmp_path: Path) -> None:
    said = Judgement("p", ("a", "b"), ((math.nan, 0.25), (0.75, math.nan)))
    write_part(tmp_path, 0, [said], Judgement)
    (found,) = read_records(tmp_path, Judgement)
    assert found.sample_ids == ("a", "b")
    assert found.preferences[0][1] == 0.25 and found.preferences[1][0] == 0.75
    assert math.isnan(found.preferences[0][0]) and math.isnan(found.preferences[1][1])


def test_some_columns_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    write_part(tmp_path, 0, SAMPLES[:1], Sample)
    write_part(tmp_path, 1, SAMPLES[1:], Sample)
    found = read_columns(tmp_path, Sample, "logps", "sample_id")
    assert found == [((-0.5, -0.25, -1.0), "a"), (None, "b")]
    with pytest.raises(DataError, match=r"does not hold Score records; its columns are \['sample_"):
        read_columns(tmp_path, Score, "sample_id", "value")


def test_parts_that_another_tool_rewrote_hold_the_same_records(tmp_path: Path) -> None:
    """A data frame that was filtered and saved has lists and strings with longer offsets."""

    def longer(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.large_list(longer(kind.value_type))
        return pa.large_string() if pa.types.is_string(kind) else kind

    path = write_part(tmp_path, 0, SAMPLES, Sample)
    fields = [field.with_type(longer(field.type)) for field in SCHEMAS[Sample]]
    pq.write_table(pq.read_table(path).cast(pa.schema(fields)), path)
    assert pa.types.is_large_list(pq.read_schema(path).field("completion_ids").type)
    assert read_part(path, Sample) == SAMPLES
    numbers = pa.table({"chosen": [[1]], "rejected": ["b"], "margin": [0.0]})
    pq.write_table(numbers, path)
    with pytest.raises(DataError, match="does not hold Pair records: "):
        read_part(path, Pair)
