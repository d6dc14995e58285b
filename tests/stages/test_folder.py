"""What decides a step's key: the content of what it reads, wherever that lies."""

from __future__ import annotations

import gzip
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from align.recipe.sections import Recipe
from align.records import Json
from align.stages.folder import RunFolder
from align.stages.steps import Step


def _files(path: Path | str, tmp_path: Path) -> object:
    step = Step("x/prompts", "prompts", section={"path": str(path)})
    return RunFolder(Recipe.model_validate({}), tmp_path / "out").key(step).get("files")


@pytest.mark.parametrize("name", ["data.train.json.gz", "data-train.jsonl", "data.train.parquet"])
def test_every_file_that_a_path_reads_is_part_of_the_key(name: str, tmp_path: Path) -> None:
    """`DIR/data` reads `data.SPLIT...` and `data-SPLIT...`; a folder all that lies in it."""
    for path in (tmp_path / "data", tmp_path):
        (tmp_path / name).write_bytes(gzip.compress(b"one"))
        before = _files(path, tmp_path)
        (tmp_path / name).write_bytes(gzip.compress(b"two"))
        assert before is not None and _files(path, tmp_path) != before


def test_a_report_of_a_run_changes_no_key_of_who_reads_its_samples(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "recipe.yaml").write_text("{}")
    (run / "samples" / "part-00000.parquet").write_bytes(b"rows")
    before = _files(run, tmp_path)
    (run / "report.json").write_text("{}")
    (run / "samples" / "manifest.json").write_text("{}")
    assert _files(run, tmp_path) == before
    (run / "samples" / "part-00000.parquet").write_bytes(b"other rows")
    assert _files(run, tmp_path) != before


def test_a_path_from_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("{}")
    assert _files("~/rows.jsonl", tmp_path) is not None


def test_a_revision_names_weights_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both revisions of `org/model` lie in the Hub's cache; the key must be that of the one named,
    and a checkpoint other than `policy.path` has no part in `policy.revision`.
    """
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for repo, revision, value in (("model", "main", 0), ("model", "v1", 1), ("other", "main", 2)):
        folder = tmp_path / f"models--org--{repo}"
        commit = f"{value:040d}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        place = folder / "snapshots" / commit
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
        save_file({"w": torch.full((2,), float(value))}, place / "model.safetensors")

    def run(revision: str | None) -> RunFolder:
        policy = {"path": "org/model", "revision": revision}
        return RunFolder(Recipe.model_validate({"policy": policy}), tmp_path / "out")

    newest, older = run(None), run("v1")
    assert newest.content("path:org/model") != older.content("path:org/model")
    assert older.weights("path:org/model").base.endswith("1")
    assert older.content("path:org/other") == newest.content("path:org/other")


@pytest.mark.parametrize(
    ("section", "libraries"),
    [
        ({"sources": [{"name": "length"}]}, []),
        ({"sources": [{"name": "reward_model", "path": "a"}]}, ["torch", "transformers"]),
        (
            {"sources": [{"name": "math_verify"}, {"name": "length"}]},
            ["latex2sympy2-extended", "math-verify", "sympy"],
        ),
        ({"sources": [{"name": "gate", "rewards": [{"name": "bleu"}]}]}, ["sacrebleu"]),
        ({"name": "max_min", "judge": {"name": "pairwise_model"}}, ["torch", "transformers"]),
    ],
)
def test_the_libraries_that_decide_scores_are_part_of_the_key(
    section: dict[str, Json], libraries: list[str], tmp_path: Path
) -> None:
    """A newer math-verify may judge otherwise; the length of a text depends on no library."""
    step = Step("x/scores", "score", section=section)
    key = RunFolder(Recipe.model_validate({}), tmp_path).key(step)
    assert key["versions"] == {name: version(name) for name in libraries}
