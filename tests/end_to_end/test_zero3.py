"""The small recipe under DeepSpeed ZeRO-3 on two ranks, and its training stages under ZeRO-2 and
DDP: the same weights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.report.summary import read_run
from align.resources import accelerate_config
from tests.conftest import ROOT
from tests.end_to_end.conftest import quiet_environment

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.timeout(900)]

STAGES = {"sft": "sft", "iter-000/checkpoint": "policy"}


@pytest.fixture(scope="module")
def zero3(
    tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, run_align: Callable[..., str]
) -> tuple[Path, str]:
    """One iteration of the small recipe: (folder, output)."""
    out = tmp_path_factory.mktemp("zero3") / "run"
    how = ("--accelerate-config", "zero3", "--processes", 2)
    return out, run_align("run", small_recipe, "--out", out, "--set", "run.iterations=1", *how)


def launch_again(launch: str, step: str, run: Path, out: Path) -> Path:
    """The step of a finished run once more, by `accelerate launch`, in a copy of the run."""
    shutil.copytree(run, out)
    shutil.rmtree(out / step)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--config_file", str(accelerate_config(launch)), "--main_process_port", "0"]
    command += ["-m", f"align.launch.{STAGES[step]}", str(out / "recipe.yaml")]
    command += ["--out", str(out), "--step", step]
    finished = subprocess.run(
        command, cwd=ROOT, env=quiet_environment(), check=False, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return out / step


def relative_difference(one: Path, other: Path) -> float:
    """L2 norm of the difference of all weights over the norm of the weights."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    flat = [torch.cat([tensors[name].flatten() for name in first]) for tensors in (first, second)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


def test_zero3_runs_to_its_end(zero3: tuple[Path, str]) -> None:
    out, output = zero3
    summary = read_run(out)
    assert summary.finished
    assert [point.name for point in summary.points] == ["start", "iter-000"]
    assert "pass@1 [95 %]" in output and f"run    {out}" in output
    log = (out / "logs" / "iter-000.checkpoint.log").read_text()
    assert "zero3.yaml --num_processes 2" in log


def test_vllm_samples_from_what_zero3_saved(zero3: tuple[Path, str]) -> None:
    """The sampler read the gathered checkpoint, and the trainer's log-probs are its own."""
    manifest = json.loads((zero3[0] / "iter-000" / "checkpoint" / "manifest.json").read_text())
    assert manifest["metrics"]["sampler_mismatch/max"] < 1e-4
    assert manifest["metrics"]["loss/first"] == pytest.approx(0.693147, abs=1e-5)
    kl = json.loads((zero3[0] / "iter-000" / "eval" / "summary" / "manifest.json").read_text())
    assert abs(kl["metrics"]["kl"]["mean"]) < 5


@pytest.mark.parametrize(
    ("launch", "step"),
    [
        ("ddp", "iter-000/checkpoint"),
        ("zero2", "iter-000/checkpoint"),
        ("ddp", "sft"),
        pytest.param("zero2", "sft", marks=pytest.mark.slow),
        pytest.param("zero1", "sft", marks=pytest.mark.slow),
        pytest.param("zero3_offload", "iter-000/checkpoint", marks=pytest.mark.slow),
    ],
)
def test_other_launches_train_the_same_weights(
    zero3: tuple[Path, str], tmp_path: Path, launch: str, step: str
) -> None:
    other = launch_again(launch, step, zero3[0], tmp_path / "run")
    start = "policy" if step == "sft" else "sft"
    assert relative_difference(zero3[0] / start, other) > 1e-2
    # Rounding grows over the steps of SFT from random weights, to about 1e-4.
    assert relative_difference(zero3[0] / step, other) < 1e-3
