"""Recipes that are no YAML of ours, and `--set` that cannot be applied: one error each."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import RecipeError
from align.recipe.load import load_recipe
from tests.recipe.broken import POLICY, PREFS, SAMPLES, STORED, check_error, one

YAML = {
    "syntax": one("policy: {path: a\nsft: 3\n", 2, None, "YAML: ", "check indentation"),
    "tab": one("policy:\n\tpath: a\n", 2, None, "YAML: found character '\\t'", "not tabs"),
    "colon": one("policy:\n  path: a: b\n", 2, None, "mapping values", "quote text"),
    "duplicate": one("run:\n  seed: 1\n  seed: 2\n", 3, "run.seed", "first on line 2", "keep one"),
    "two documents": one(POLICY + "---\nrun: {}\n", 2, None, "second document", "file of its own"),
    "alias": one("run: &a {seed: 1}\nsft: *a\n", 2, None, "alias", "write the value out"),
    "tag": one("run: {seed: !!python/int 3}\n", 1, "run.seed", "has a YAML tag", "without the tag"),
    "key not text": one("run:\n  1: 2\n", 2, "run", "key that is not text", "quotes"),
    "control character": one("run:\n  name: \x07\n", 2, None, "not allowed in YAML", "remove it"),
    "empty": one("# nothing\n", 1, None, "is empty", "name a section"),
    "not a mapping": one("- a\n", 1, None, "mapping of sections", "section: {...}"),
}

SETS = {
    "no value": one(SAMPLES, None, "--set generate.n", "has no value", "key=value", "generate.n"),
    "empty part": one(SAMPLES, None, "--set generate..n", "not a key", "write", "generate..n=2"),
    "value not YAML": one(SAMPLES, None, "--set run.name", "not YAML", "quote", "run.name=[a"),
    "unknown option": one(
        POLICY + PREFS + "}",
        None,
        "--set train.objective.betta",
        "is not an option of dpo",
        '"beta"',
        "train.objective.betta=1",
    ),
    "unknown key": one(
        SAMPLES, None, "--set run.sead", "is not a key of run", '"seed"', "run.sead=1"
    ),
    "inside a value": one(
        SAMPLES, None, "--set run.sead", "is not a key of run", '"seed"', "run={sead: 1}"
    ),
    "wrong type": one(
        SAMPLES, None, "--set run.seed", "must be a whole number", "change", "run.seed=a"
    ),
    "missing beside it": one(
        SAMPLES + "train: {objective: {name: dpo}, global_batch_size: 8}\npair: {name: max_min}\n"
        "score: {name: length}\n",
        None,
        "--set publish.repo",
        "must be text, not 3",
        "quotes",
        "publish.repo=3",
    ),
    "list without a number": one(
        STORED + "score: [{name: length}]\n",
        None,
        "--set score.weight",
        "needs a number after score",
        "--set score.0.weight=...",
        "score.weight=2",
    ),
    "number beyond the list": one(
        STORED + "score: [{name: length}]\n",
        None,
        "--set score.1.weight",
        "beyond the end of score, which has 1 items",
        "the last is 0",
        "score.1.weight=2",
    ),
    "number without a list": one(
        SAMPLES,
        None,
        "--set generate.0.n",
        "generate is one mapping",
        "write --set generate.n=...",
        "generate.0.n=2",
    ),
    "into a single value": one(
        SAMPLES,
        None,
        "--set policy.path.x",
        "goes into policy.path, which is a single value",
        "replace all of it",
        "policy.path.x=2",
    ),
}

ALL = YAML | SETS


@pytest.mark.parametrize("name", ALL)
def test_error_has_file_line_key_and_remedy(name: str, tmp_path: Path) -> None:
    check_error(ALL[name], tmp_path)


def test_all_errors_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "run: {seed: a}\npolicy: {path: b}\n"
        "train:\n  objective: {name: dpo, betta: 1}\n  data: {path: c}\n  batch: 3\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    found = [(each.line, each.key) for each in caught.value.errors]
    assert found == [
        (1, "run.seed"),
        (3, "train.global_batch_size"),
        (4, "train.objective.betta"),
        (6, "train.batch"),
    ]
    assert caught.value.key == "run.seed"
    assert str(caught.value).splitlines() == [str(each) for each in caught.value.errors]


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_file_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"run: \xff")
    says = {"missing": "no such recipe", "folder": "is a folder", "bytes": "not UTF-8"}[kind]
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipe(path)
    assert caught.value.file == path and caught.value.remedy
