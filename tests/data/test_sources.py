"""Rows from files, folders, built-in sets and mixtures; what is wrong is named with its place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.data import sources
from align.data.convert import to_prompts
from align.data.rows import Row
from align.data.shards import write_part
from align.data.sources import name_of, read_rows
from align.errors import AlignError, DataError
from align.recipe.sections import Source
from align.records import Prompt, Sample

NUMBERS = [{"n": number} for number in range(10)]


def _write_lines(path: Path, rows: list[dict[str, int]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def _source(**options: object) -> Source:
    return Source.model_validate({"shuffle": False, **options})


def _numbers(source: Source, seed: int = 0) -> list[object]:
    return [row.values["n"] for row in read_rows(source, seed=seed)]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.parquet"])
def test_every_format_reads_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".json"):
        path.write_text(json.dumps(NUMBERS))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(NUMBERS), path)
    else:
        _write_lines(path, NUMBERS)
    rows = read_rows(_source(path=str(path)), seed=0)
    assert [row.values for row in rows] == NUMBERS
    assert (rows[3].source, rows[3].place) == ("x", f"{path}:4")


def test_shuffle_is_seeded_and_limit_takes_the_first_after_it(tmp_path: Path) -> None:
    path = str(_write_lines(tmp_path / "x.jsonl", NUMBERS))
    one = _numbers(_source(path=path, shuffle=True), seed=1)
    assert sorted(one, key=str) == list(range(10)) and one != list(range(10))
    assert one == _numbers(_source(path=path, shuffle=True), seed=1)
    assert one != _numbers(_source(path=path, shuffle=True), seed=2)
    assert _numbers(_source(path=path, shuffle=True, limit=4), seed=1) == one[:4]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:3]", [0, 1, 2]),
        ("train[-2:]", [8, 9]),
        ("train[10%:30%]", [1, 2]),
        ("train[8:]+dev", [8, 9, 100]),
        ("dev", [100]),
    ],
)
def test_splits_of_a_folder(tmp_path: Path, split: str, expected: list[int]) -> None:
    _write_lines(tmp_path / "x.train.jsonl", NUMBERS)
    _write_lines(tmp_path / "x.dev.jsonl.gz", [{"n": 100}])
    _write_lines(tmp_path / "x_more.dev.jsonl.gz", [{"n": 200}])
    assert _numbers(_source(path=str(tmp_path / "x"), split=split)) == expected


def test_folder_of_shards_sub_folders_and_files_without_a_split(tmp_path: Path) -> None:
    _write_lines(tmp_path / "a.jsonl", NUMBERS[:1])
    _write_lines(tmp_path / "b.jsonl", NUMBERS[1:2])
    (tmp_path / "test").mkdir()
    _write_lines(tmp_path / "test" / "part-0.jsonl", NUMBERS[5:])
    assert _numbers(_source(path=str(tmp_path))) == [0, 1]
    assert _numbers(_source(path=str(tmp_path), split="test")) == [5, 6, 7, 8, 9]


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "answer": "long", "final": "4", "id": 1}\n')
    row = read_rows(
        _source(path=str(path), columns={"prompt": "question", "answer": "final"}), seed=0
    )
    assert row[0].values == {"prompt": "q", "answer": "4", "id": 1}


def test_mixture_keeps_shares_and_ends_where_a_part_runs_out(tmp_path: Path) -> None:
    """Weights 3:1 with 10 and 2 rows: 2 rows of the second meet 6 of the first."""
    a = {"path": str(_write_lines(tmp_path / "a.jsonl", NUMBERS)), "weight": 3.0, "shuffle": False}
    small = [{"n": 100}, {"n": 101}]
    b = {"path": str(_write_lines(tmp_path / "b.jsonl", small)), "shuffle": False}
    assert _numbers(_source(mix=[a, b])) == [0, 1, 100, 2, 3, 4, 101, 5]
    assert _numbers(_source(mix=[a, b], limit=4)) == [0, 1, 100, 2]
    shuffled = _numbers(_source(mix=[a, b], limit=4, shuffle=True), seed=5)
    assert set(shuffled) == {0, 1, 2, 100}
    assert shuffled == _numbers(_source(mix=[a, b], limit=4, shuffle=True), seed=5)


def test_folder_of_our_prompts_gives_the_same_prompts_back(tmp_path: Path) -> None:
    prompts = [
        Prompt.of("1+1=", answer="2", source="sums"),
        Prompt.of([{"role": "user", "content": "Hi"}], source="chat", meta={"k": [1]}),
    ]
    write_part(tmp_path, 0, prompts, Prompt)
    for name in ("manifest.json", "result.json"):  # as a finished step has them
        (tmp_path / name).write_text("{}")
    cleaned = to_prompts(read_rows(_source(path=str(tmp_path)), seed=0))
    assert list(cleaned.rows) == prompts
    write_part(tmp_path / "samples", 0, [], Sample)
    with pytest.raises(DataError, match="holds Sample records"):
        read_rows(_source(path=str(tmp_path / "samples")), seed=0)


def test_a_file_called_like_a_note_of_ours_is_data_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(NUMBERS))
    assert _numbers(_source(path=str(tmp_path))) == list(range(10))


def test_built_in_is_read_by_name_with_its_options() -> None:
    rows = read_rows(_source(name="addition", digits=2, split="test", limit=3), seed=0)
    assert len(rows) == 3 and rows[0].source == "addition"
    assert all(len(str(row.values["prompt"])) == 6 for row in rows)
    sliced = read_rows(_source(name="addition", digits=2, split="test[:2]"), seed=0)
    assert [row.values for row in sliced] == [row.values for row in rows[:2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "gives none of them"),
        ({"path": "x", "name": "addition"}, "gives name and path"),
        ({"path": "x", "digits": 3}, "'digits' is not an option"),
        ({"name": "additon"}, 'did you mean "addition"'),
        ({"name": "addition", "split": "dev"}, "no split 'dev'; they have train, prompts"),
        ({"path": "{}/none.jsonl"}, "there is no file"),
        ({"path": "{}/bad.jsonl"}, r"bad.jsonl:2: this line is not JSON .*column 6\); correct"),
        ({"path": "{}/list.jsonl"}, r"list.jsonl:1: a row must be an object"),
        ({"path": "{}/cut.jsonl.gz"}, r"cut.jsonl.gz: cannot be read after row"),
        ({"path": "{}/one.json"}, "holds one dict; expected a list of rows"),
        ({"path": "{}/cut.parquet"}, r"cut.parquet: cannot be read"),
        ({"path": "{}/good.jsonl", "columns": {"prompt": "q"}}, r"good.jsonl:1: .*no column 'q'"),
        ({"path": "{}/good.jsonl", "split": "test"}, "does not say that it is the split 'test'"),
        ({"path": "{}/good.jsonl", "split": "train[a:]"}, "is not understood"),
        ({"path": "{}/good.jsonl", "split": "train[5:]"}, "no rows in the split"),
        ({"path": "{}/empty"}, "holds no data files"),
        ({"path": "{}/folder", "split": "test"}, "no files of the split 'test'; it holds x.train"),
    ],
)
def test_faults_name_place_and_remedy(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    _write_lines(tmp_path / "good.jsonl", NUMBERS[:3])
    (tmp_path / "bad.jsonl").write_text('{"n": 1}\n{"n":}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "one.json").write_text('{"n": 1}')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(os.urandom(9).hex().encode())[:12])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    _write_lines(tmp_path / "folder" / "x.train.jsonl", NUMBERS)
    if isinstance(path := options.get("path"), str):
        options = {**options, "path": path.replace("{}", str(tmp_path))}
    with pytest.raises(AlignError, match=message) as caught:
        read_rows(_source(**options), seed=0)
    assert caught.value.exit_status == 2


def test_hub_rows_come_through_datasets(tmp_path: Path) -> None:
    """The same `load_dataset` call that a Hub id takes, given a folder."""
    _write_lines(tmp_path / "train.jsonl", NUMBERS)
    source = _source(path="org/name", split="train[:3]")
    rows = sources._from_hub(source, str(tmp_path))
    assert [row.values["n"] for row in rows] == [0, 1, 2]
    assert rows[2].place.endswith("[train[:3]]:3")
    assert name_of(source) == "org/name"


def test_unreachable_hub_is_an_error_with_a_remedy() -> None:
    script = (
        "from align.data.sources import read_rows\n"
        "from align.recipe.sections import Source\n"
        "from align.errors import DataError\n"
        "try:\n    read_rows(Source(path='nobody/nothing'), seed=0)\n"
        "except DataError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("nobody/nothing is no file or folder here and could not be had")
    assert "or give a local file" in done.stdout


@pytest.mark.parametrize(
    ("name", "train", "dev"),
    [
        ("hh_harmless", 1599, 148),
        ("oasst", 498, 49),
        ("pandalm", 349, 35),
        ("gsm8k", 7039, 434),
        ("truthfulqa", 1977, 181),
        ("mixed_kto", 198, 26),
        ("tinystories_prompts", 1766, 176),
    ],
)
def test_real_files_have_their_rows(shared: Path, name: str, train: int, dev: int) -> None:
    path = str(shared / "data" / name)
    assert len(read_rows(_source(path=path), seed=0)) == train
    assert len(read_rows(_source(path=path, split="dev"), seed=0)) == dev


def test_row_fault_without_a_place() -> None:
    assert str(Row({}).fault("x")) == "x"
