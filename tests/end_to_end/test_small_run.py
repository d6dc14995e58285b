"""A whole run on the real stack: vLLM, TRL, the policy engine; then skipping, refusing, extending,
showing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from align.data.shards import read_records
from align.records import Pair, Prompt, Sample, Score
from align.report.summary import read_run
from tests.end_to_end.conftest import contents

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.timeout(1500)]
ROWS = ("samples", "scores")


def test_every_step_is_finished_and_the_table_is_printed(small_run: tuple[Path, str]) -> None:
    out, output = small_run
    summary = read_run(out)
    assert summary.finished
    assert [point.name for point in summary.points] == ["start", "iter-000", "iter-001"]
    assert "pass@1 [95 %]" in output and "iter-001" in output
    assert output.count("engine started in") == 1 and output.count("weights synced in") == 2
    assert f"run    {out}" in output and f"align publish {out}" in output
    assert (out / "report.html").stat().st_size > 2000
    assert json.loads((out / "report.json").read_text())["finished"] is True


def test_records_join_from_prompt_to_pair(small_run: tuple[Path, str]) -> None:
    folder = small_run[0] / "iter-000"
    prompts = {p.prompt_id: p for p in read_records(folder / "prompts", Prompt)}
    samples = {s.sample_id: s for s in read_records(folder / "samples", Sample)}
    scores = {s.sample_id: s for s in read_records(folder / "scores", Score)}
    assert len(prompts) == 16 and len(samples) == 16 * 8 and scores.keys() == samples.keys()
    for sample in samples.values():
        assert sample.logps is not None and len(sample.logps) == len(sample.completion_ids)
        right = sample.text == prompts[sample.prompt_id].answer
        assert scores[sample.sample_id].value == float(right)
    for pair in read_records(folder / "pairs", Pair):
        assert scores[pair.chosen].value == 1.0 and scores[pair.rejected].value == 0.0
        assert samples[pair.chosen].prompt_id == samples[pair.rejected].prompt_id


def test_prompts_of_iterations_and_evaluation_are_disjoint(small_run: tuple[Path, str]) -> None:
    out = small_run[0]
    sets = [
        {p.prompt_id for p in read_records(out / name, Prompt)}
        for name in ("iter-000/prompts", "iter-001/prompts", "eval-prompts")
    ]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_the_sampler_and_the_trainer_agree(small_run: tuple[Path, str]) -> None:
    """I2, I4: log-probs of vLLM and of the trainer differ by less than 1e-4 a token in fp32."""
    for iteration in ("iter-000", "iter-001"):
        manifest = json.loads(
            (small_run[0] / iteration / "checkpoint" / "manifest.json").read_text()
        )
        assert manifest["metrics"]["sampler_mismatch/max"] < 1e-4


def test_a_second_run_does_nothing(
    small_run: tuple[Path, str], small_recipe: Path, run_align: Callable[..., str]
) -> None:
    out = small_run[0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("manifest.json")}
    output = run_align("run", small_recipe, "--out", out)
    assert f"{len(before)} steps were already done" in output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("manifest.json")} == before


def test_processes_of_their_own_make_what_forks_made(
    small_run: tuple[Path, str], small_recipe: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    """The small run forked its stages; a kind of each is made again in a fresh process."""
    assert (small_run[0] / "logs" / "forks.log").is_file()
    out = tmp_path / "fresh"
    shutil.copytree(small_run[0], out)
    (out / "logs" / "forks.log").unlink()
    made = ["policy", "sft", "iter-000/checkpoint", "iter-001/scores", "iter-001/eval/summary"]
    for step in made:
        (out / step / "manifest.json").unlink()
    output = run_align("run", small_recipe, "--out", out, "--set", "run.fork=false")
    assert [line.split()[1] for line in output.splitlines() if line.startswith("done ")] == made
    assert contents(out) == contents(small_run[0])
    assert not (out / "logs" / "forks.log").exists()


def test_changed_inputs_are_refused_with_both_remedies(
    small_run: tuple[Path, str], small_recipe: Path, run_align: Callable[..., str]
) -> None:
    arguments = ("run", small_recipe, "--out", small_run[0], "--set", "train.objective.beta=2.0")
    output = run_align(*arguments, expect=2)
    assert "section.objective.beta (1.0 -> 2.0)" in output
    assert "--out DIR" in output and "--redo iter-000/checkpoint" in output


def test_a_stop_ends_the_run_with_status_0_and_more_iterations_do_not_pass_it(
    small_run: tuple[Path, str], small_recipe: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    """The finished run's copy, with a budget that its first iteration passes: all is measured, so
    only the verdict is new, and the second iteration is no part of the run any more.
    """
    out = tmp_path / "stopped"
    shutil.copytree(small_run[0], out)
    kl = read_run(out).points[1].mean("kl")
    assert kl is not None and kl > 0
    settings = ("--out", out, "--set", f"run.stop.kl={kl / 2}")
    output = run_align("run", small_recipe, *settings)
    assert "loop   2 iterations; prompts disjoint, 16 each; samples vllm x 8 at 1.0" in output
    assert "stop   after iteration 0: the KL to the first policy is" in output
    assert "kept   the policy that the loop began with" in output
    again = run_align("run", small_recipe, *settings, "--set", "run.iterations=3")
    assert "done" not in again.replace("already done", "") and "stop   after iteration 0" in again
    data = json.loads((out / "report.json").read_text())
    assert data["verdict"]["kept"] == "start" and data["loop"]["reference"] == "previous"
    assert data["finished"] and [one["name"] for one in data["policies"]] == ["start", "iter-000"]


def test_show_tells_where_a_row_came_from(
    small_run: tuple[Path, str], run_align: Callable[..., str]
) -> None:
    out = small_run[0]
    pair = read_records(out / "iter-001" / "pairs", Pair)[0]
    output = run_align("show", out, "--id", pair.chosen)
    for name in ("iter-001/samples", "iter-001/scores", "iter-001/selected", "iter-001/pairs"):
        assert f"{name}/part-00000.parquet" in output
    assert "eval/summary" in run_align("show", out)
    assert '"content"' in run_align("show", out / "iter-000" / "samples")


def test_another_learning_rate_samples_and_scores_nothing_again(
    small_run: tuple[Path, str], small_recipe: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    """In another folder with the same cache: no engine runs before the first update, samples and
    scores are the same rows, and the reference's log-probs are known. What differs is the policy.
    """
    cache = f"run.cache={small_run[0].parent / 'cache'}"
    fixed = sorted((small_run[0].parent / "cache" / "logps").iterdir())
    assert len(fixed) == 2
    changes = ("run.iterations=1", cache, "train.args.learning_rate=2.0e-3")
    settings = [word for change in changes for word in ("--set", change)]
    output = run_align("run", small_recipe, "--out", tmp_path / "other", *settings)
    shared = [f"{place}/{name}" for place in ("start/eval", "iter-000") for name in ROWS]
    before, _, after = output.partition("done iter-000/checkpoint")
    lines = [line for line in before.splitlines() if line.endswith("from the cache")]
    assert sorted(line.split()[1] for line in lines) == sorted(shared)
    assert "engine started" not in before and "engine started" in after
    assert sorted((small_run[0].parent / "cache" / "logps").iterdir()) == fixed
    first, other = contents(small_run[0]), contents(tmp_path / "other")
    same = {name for name, content in other.items() if content == first[name]}
    assert same >= {*shared, "iter-000/selected", "iter-000/pairs"}
    assert not same & {"iter-000/checkpoint", "iter-000/eval/samples"}


def test_the_run_is_published_to_a_folder_and_read_back(
    small_run: tuple[Path, str], run_align: Callable[..., str], tmp_path: Path
) -> None:
    output = run_align("publish", small_run[0], "--folder", tmp_path / "published")
    assert "published iter-001/checkpoint" in output and "read back and equal" in output
    weights = (tmp_path / "published" / "model.safetensors").read_bytes()
    assert weights == (small_run[0] / "iter-001" / "checkpoint" / "model.safetensors").read_bytes()
    assert "pass@1" in (tmp_path / "published" / "README.md").read_text()
