"""I5: SIGKILL at random moments of every kind of stage, mid-shard and mid-checkpoint included."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.chaos import chaos, is_all_but_finished, is_half_written, schedule


def test_the_schedule_aims_at_every_kind_of_stage_and_at_what_is_half_written() -> None:
    """35 kills: 1 + 3 + 2 before the loop; in each iteration 2 of samples, 1 of scores, 3 of
    training, 3 of the evaluation; between iterations 1 of the average.
    """
    names = Counter(step.rpartition("/")[2] for step, _ in schedule() if "/eval/" not in step)
    wanted = {"policy": 1, "sft": 3, "reward": 2, "samples": 6, "scores": 3, "checkpoint": 9}
    assert names == {**wanted, "reference": 2}
    evaluated = Counter(step.rpartition("/")[2] for step, _ in schedule() if "/eval/" in step)
    assert evaluated == {"samples": 3, "scores": 3, "summary": 3}
    assert Counter(when for _, when in schedule()) == {
        "moment": 25,
        "shard": 3,
        "checkpoint": 5,
        "end": 2,
    }


def test_the_moments_are_told_by_what_lies_on_the_disk(tmp_path: Path) -> None:
    """Two parts and a lease of three; a checkpoint without its marker; weights of this attempt."""
    for name in ("part-00000.parquet", "part-00001.parquet", ".leases/part-00002"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert is_half_written(tmp_path, "shard") and not is_half_written(tmp_path, "checkpoint")
    assert is_all_but_finished(tmp_path, 2, 0.0) and not is_all_but_finished(tmp_path, 3, 0.0)
    checkpoint = tmp_path / ".trainer" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    assert is_half_written(tmp_path, "checkpoint")
    (checkpoint / "complete").touch()
    assert not is_half_written(tmp_path, "checkpoint")
    weights = tmp_path / "model.safetensors"
    weights.touch()
    os.utime(weights, (1000, 1000))
    assert is_all_but_finished(tmp_path, 0, 999.0) and not is_all_but_finished(tmp_path, 0, 1001.0)


@pytest.mark.vllm
@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_that_is_killed_thirty_times_ends_with_the_same_content(tmp_path: Path) -> None:
    """The killed run starts its engines and trainers cold again and again, the undisturbed one
    keeps its sampler, so they also compare loaded with reloaded weights.
    """
    kills, same = chaos(tmp_path)
    assert same
    assert len(kills) >= 25, f"only {len(kills)} of {len(schedule())} struck in time"
    assert {kill.when for kill in kills} == {"moment", "shard", "checkpoint"}
    names = {kill.aimed.rpartition("/")[2] for kill in kills}
    assert names >= {"sft", "reward", "samples", "scores", "reference", "checkpoint", "summary"}
