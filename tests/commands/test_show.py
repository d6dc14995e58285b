"""`align show`: rows as they are, and where one came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.cli import main
from align.data.shards import write_part
from align.records import Json, Judgement, Sample, Score
from align.stages.manifest import Manifest, write_manifest


@pytest.mark.parametrize("text", ["one [/INST] two", "[red]three[/red]", "a [INST] b"])
def test_rows_are_shown_as_they_stand_brackets_and_all(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chat templates write `[/INST]`, which rich takes for the end of markup that nobody began."""
    write_part(tmp_path / "scores", 0, [Score("s0", None, error=text)], Score)
    assert main(["show", str(tmp_path / "scores")]) == 0
    assert repr(text) in capsys.readouterr().out
    assert main(["show", str(tmp_path), "--id", "s0"]) == 0
    found = capsys.readouterr().out
    assert "scores/part-00000.parquet" in found and repr(text) in found


def test_an_id_that_no_row_carries_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_part(tmp_path / "scores", 0, [Score("s0", 1.0)], Score)
    assert main(["show", str(tmp_path), "--id", "s1"]) == 2
    assert capsys.readouterr().err == f"no row under {tmp_path} carries the id s1\n"
    assert main(["show", str(tmp_path / "score"), "--id", "s0"]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'score'} is not there\n"


def test_a_judges_matrix_is_shown_and_found_by_its_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judgement = Judgement("p", ("a", "b"), ((0.5, 0.75), (0.25, 0.5)))
    write_part(tmp_path / "judgements", 0, [judgement], Judgement)
    assert main(["show", str(tmp_path / "judgements")]) == 0
    assert "((0.5, 0.75), (0.25, 0.5))" in capsys.readouterr().out
    assert main(["show", str(tmp_path), "--id", "b"]) == 0
    assert "judgements/part-00000.parquet" in capsys.readouterr().out


RECIPE = """
policy: {path: org/sft}
prompts: {path: org/prompts}
generate: [{name: vllm, n: 1}, {name: vllm, n: 1, policy: initial, temperature: 0.7}]
score: {name: length}
pair: {name: max_min}
train: {objective: {name: dpo}, global_batch_size: 8}
"""
SAMPLERS: list[Json] = [{"name": "vllm"}, {"name": "vllm", "policy": "initial", "temperature": 0.7}]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A run of two samplers, as far as its first policy."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    keys: dict[str, dict[str, Json]] = {
        "samples": {"section": {"samplers": SAMPLERS}},
        "checkpoint": {"inputs": {"policy": "0123456789abcdef"}},
    }
    for name, kind in (("samples", "generate"), ("checkpoint", "policy")):
        step = f"iter-000/{name}"
        manifest = Manifest(step, kind, keys[name], "c0ffee", {}, {}, 2.0, "2026")
        write_manifest(tmp_path / step, manifest)
    rows = [
        Sample(f"s{i}", "p", i, "w", (1,), (2,), (1,), None, "x", "stop", meta={"sampler": i})
        for i in range(2)
    ]
    write_part(tmp_path / "iter-000" / "samples", 0, rows, Sample)
    return tmp_path


def test_a_sample_of_a_mixture_names_the_settings_that_drew_it(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked of the run, and of the file alone."""
    part = mixed / "iter-000" / "samples" / "part-00000.parquet"
    for path in (mixed, part):
        assert main(["show", str(path), "--id", "s1"]) == 0
        found = capsys.readouterr().out
        assert 'drawn by {"name":"vllm","policy":"initial","temperature":0.7}' in found
        assert "iter-000/samples (generate, 2026, content c0ffee)" in found


def test_a_checkpoint_says_what_it_was_made_from(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no row to ask for."""
    assert main(["show", str(mixed / "iter-000" / "checkpoint")]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("made from")
    assert lines[first + 1] == "iter-000/checkpoint (policy, 2026, content c0ffee)"
    assert lines[first + 2] == "  policy: org/sft, content 0123456789abcdef"
    assert "  samples: iter-000/samples (generate, 2026, content c0ffee)" in lines
    assert lines[-1] == f"recipe {mixed / 'recipe.yaml'}"


def test_a_run_says_what_its_loop_chose(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(mixed)]) == 0
    assert "\nloop   1 iteration; prompts disjoint, all in equal parts; " in capsys.readouterr().out
