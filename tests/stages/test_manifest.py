"""Manifests, keys and content hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.data.shards import write_part
from align.errors import DataError
from align.records import Pair, Score
from align.stages.manifest import (
    Manifest,
    Result,
    changed,
    content_of,
    key_hash,
    read_manifest,
    write_manifest,
    write_result,
)


def _manifest(key: dict) -> Manifest:
    return Manifest(
        "iter-000/pairs", "pair", key, "c0ffee", {"pairs": 2}, {}, 0.5, "2026-01-01T00:00:00+00:00"
    )


def test_manifest_round_trips_and_is_absent_until_written(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, _manifest({"section": {"beta": 0.1}}))
    assert read_manifest(tmp_path) == _manifest({"section": {"beta": 0.1}})


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"step": ')
    with pytest.raises(
        DataError, match=r"manifest\.json is damaged .* delete it and run the same command again"
    ):
        read_manifest(tmp_path)


def test_changed_names_the_key_and_both_values() -> None:
    old = {"section": {"objective": {"beta": 0.1}, "epochs": 1}, "inputs": {"samples": "a"}}
    new = {
        "section": {"objective": {"beta": 0.2}, "epochs": 1},
        "inputs": {"samples": "a", "pairs": "b"},
    }
    assert changed(old, new) == [
        'inputs.pairs (null -> "b")',
        "section.objective.beta (0.1 -> 0.2)",
    ]


def test_content_ignores_how_rows_were_split_and_sees_a_changed_row(tmp_path: Path) -> None:
    pairs = [Pair("a", "b", 1.0), Pair("c", "d", 0.5), Pair("e", "f", 2.0)]
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    write_part(one, 0, pairs, Pair)
    write_part(two, 0, pairs[2:], Pair)
    write_part(two, 1, pairs[:2], Pair)
    write_part(other, 0, [*pairs[:2], Pair("e", "f", 2.0000001)], Pair)
    assert content_of(one) == content_of(two)
    assert content_of(one) != content_of(other)


def test_content_tells_a_missing_value_from_zero(tmp_path: Path) -> None:
    write_part(tmp_path / "none", 0, [Score("a", None)], Score)
    write_part(tmp_path / "zero", 0, [Score("a", 0.0)], Score)
    assert content_of(tmp_path / "none") != content_of(tmp_path / "zero")


def test_content_of_a_step_without_rows_is_what_it_measured(tmp_path: Path) -> None:
    write_result(tmp_path / "a", Result({"n": 3}, {"score": 0.5}))
    write_result(tmp_path / "b", Result({"n": 3}, {"score": 0.25}))
    assert content_of(tmp_path / "a") != content_of(tmp_path / "b")


def test_key_hash_does_not_depend_on_the_order_of_entries() -> None:
    assert key_hash({"a": 1, "b": {"c": 2, "d": 3}}) == key_hash({"b": {"d": 3, "c": 2}, "a": 1})
