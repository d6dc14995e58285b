"""Faults of disks, rewards and users in a small run: what is lost, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align.data.shards import parts, read_records
from align.records import Score
from tests.end_to_end.conftest import (
    TINY_POLICY,
    contents,
    quiet_environment,
    start_align,
)

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

RECIPE = (
    "\nrun: {name: faults, seed: 3, iterations: 1}\n"
    + TINY_POLICY
    + """\
prompts: {name: addition, digits: 2, split: prompts, per_iteration: 600}
generate: {name: transformers, n: 2, temperature: 1.0, max_new_tokens: 4}
score: {name: length}
"""
)
"""Three shards."""

REWARDS = """
import os, time

def raises(prompt, samples):
    raise RuntimeError("no judge")

def raises_for_some(prompt, samples):
    if prompt.answer and prompt.answer.endswith("0"):
        raise RuntimeError("no judge")
    return [1.0 for _ in samples]

def is_no_number(prompt, samples):
    return [float("nan"), 1.0]

def hangs(prompt, samples):
    time.sleep(3600)

def exits(prompt, samples):
    os._exit(5)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "faults.yaml"
    path.write_text(RECIPE)
    (path.parent / "faulty_rewards.py").write_text(REWARDS)
    return path


@pytest.fixture(scope="module")
def whole(
    recipe: Path, tmp_path_factory: pytest.TempPathFactory, run_align: Callable[..., str]
) -> Path:
    """The finished run, to be copied."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_align("run", recipe, "--out", out)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy, which is a run moved to another folder."""
    return Path(shutil.copytree(whole, tmp_path / "moved"))


def reopen(out: Path, step: str) -> Path:
    """As if the run had been killed just before the step was finished; returns its folder."""
    manifest = out / step / "manifest.json"
    (out / step / "pending.json").write_text(json.dumps(json.loads(manifest.read_text())["key"]))
    manifest.unlink()
    return out / step


def flip(path: Path) -> None:
    """One bit of one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def run_with(recipe: Path, out: Path, reward: str, *settings: str) -> tuple[int, str]:
    """Status and output of the run with a reward of `REWARDS`."""
    changes = ("score.name=python", f"score.function=faulty_rewards.{reward}", *settings)
    environment = quiet_environment()
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(recipe.parent), environment.get("PYTHONPATH", "")]
    )
    words = [word for change in changes for word in ("--set", change)]
    done = subprocess.run(
        [sys.executable, "-m", "align", "run", str(recipe), "--out", str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    return done.returncode, done.stdout


def test_a_moved_run_goes_on_where_a_truncated_part_lay(
    recipe: Path, whole: Path, out: Path, run_align: Callable[..., str]
) -> None:
    """The other two shards of the same step are not sampled again."""
    folder = reopen(out, "iter-000/samples")
    first, second, third = parts(folder)
    second.write_bytes(second.read_bytes()[:-200])
    kept = [path.stat().st_mtime_ns for path in (first, third)]
    output = run_align("run", recipe, "--out", out)
    assert f"{second} was damaged and is made again" in output
    assert [path.stat().st_mtime_ns for path in (first, third)] == kept
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(
    ("step", "file", "reader"),
    [
        pytest.param(*("policy", "model.safetensors", "iter-000/samples"), marks=pytest.mark.slow),
        ("iter-000/samples", "part-00001.parquet", "iter-000/scores"),
    ],
)
def test_a_flipped_bit_is_refused_by_name_and_redo_mends_it(
    recipe: Path, whole: Path, out: Path, run_align: Callable[..., str], step, file, reader
) -> None:
    reopen(out, reader)
    flip(out / step / file)
    output = run_align("run", recipe, "--out", out, expect=3)
    assert f"{out / step} is damaged" in output.replace("\n", " ")
    assert f"(--redo {step})" in output
    run_align("run", recipe, "--out", out, "--redo", step)
    assert contents(out) == contents(whole)


def test_a_missing_part_of_a_finished_step_is_not_overlooked(
    recipe: Path, out: Path, run_align: Callable[..., str]
) -> None:
    reopen(out, "iter-000/scores")
    parts(out / "iter-000/samples")[1].unlink()
    assert "iter-000/samples is damaged" in run_align("run", recipe, "--out", out, expect=3)


def test_a_reward_that_fails_for_some_prompts_or_gives_nan_is_counted(
    recipe: Path, out: Path
) -> None:
    for reward, error, expected in (
        ("raises_for_some", "no judge", None),
        ("is_no_number", "nan", 600),
    ):
        shutil.rmtree(out / "iter-000" / "scores")
        status, output = run_with(recipe, out, reward)
        assert status == 0, output
        manifest = json.loads((out / "iter-000" / "scores" / "manifest.json").read_text())
        failed = [s for s in read_records(out / "iter-000/scores", Score) if s.value is None]
        assert manifest["counts"]["failed"] == len(failed) == (expected or len(failed)) > 0
        assert all(error in str(score.error).lower() for score in failed)


@pytest.mark.parametrize(
    ("reward", "settings", "said"),
    [
        ("raises", (), "all 1200 samples failed to be scored: python: faulty_rewards.raises"),
        ("hangs", ("run.patience=4",), "it finished nothing for 4 s (run.patience)"),
        ("exits", (), "exit status 5"),
    ],
)
def test_a_reward_that_never_scores_is_one_line_of_cause_and_costs_no_sample(
    recipe: Path, whole: Path, out: Path, reward: str, settings: Sequence[str], said: str
) -> None:
    shutil.rmtree(out / "iter-000" / "scores")
    status, output = run_with(recipe, out, reward, *settings)
    assert status == 3 and said in output.replace("\n", " "), output
    assert "iter-000/samples" in contents(out)


def test_interrupted_by_the_keyboard_the_run_stops_cleanly_and_goes_on(
    recipe: Path, whole: Path, out: Path, run_align: Callable[..., str]
) -> None:
    folder = reopen(out, "iter-000/samples")
    wanted = len(parts(folder))
    for part in parts(folder):
        part.unlink()
    process = start_align(("run", recipe, "--out", out))
    while not list(folder.glob(".leases/part-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in output
    assert len(parts(folder)) < wanted
    run_align("run", recipe, "--out", out)
    assert contents(out) == contents(whole)


def test_two_workers_sample_what_one_does(
    recipe: Path, whole: Path, tmp_path: Path, run_align: Callable[..., str]
) -> None:
    output = run_align("run", recipe, "--out", tmp_path / "two", "--workers", 2)
    assert output.count("engine started") == 2
    assert contents(tmp_path / "two") == contents(whole)


def test_appended_prompts_and_another_reward_take_what_is_cached(
    recipe: Path, whole: Path, tmp_path: Path, run_align: Callable[..., str]
) -> None:
    """600 prompts, then 700 in another folder: the first 600 are the same. Then a reward alone."""
    cache = ("--cache", tmp_path / "cache")
    policy = f"policy={{path: {whole / 'policy'}, chat_template: none}}"
    settings = ("--set", "prompts.shuffle=false", "--set", policy)
    run_align("run", recipe, "--out", tmp_path / "a", *cache, *settings)
    more = (*settings, "--set", "prompts.per_iteration=700")
    run_align("run", recipe, "--out", tmp_path / "b", *cache, *more)
    counts = {
        step: json.loads((tmp_path / "b" / step / "manifest.json").read_text())["counts"]
        for step in ("iter-000/samples", "iter-000/scores")
    }
    assert counts["iter-000/samples"]["prompts_from_cache"] == 600
    assert counts["iter-000/scores"]["groups_from_cache"] == 600
    run_align("run", recipe, "--out", tmp_path / "c", *more)
    assert contents(tmp_path / "b") == contents(tmp_path / "c")
    scored = ("--set", "score.name=exact_match")
    output = run_align("run", recipe, "--out", tmp_path / "d", *cache, *more, *scored)
    assert "engine started" not in output
    lines = {line.split()[1]: line for line in output.splitlines() if line.startswith("done ")}
    assert lines["iter-000/samples"].endswith("from the cache")
    assert not lines["iter-000/scores"].endswith("from the cache")
    before, after = contents(tmp_path / "b"), contents(tmp_path / "d")
    assert {name for name in after if after[name] != before[name]} == {"iter-000/scores"}
