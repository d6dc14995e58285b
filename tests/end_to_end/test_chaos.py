"""I5: SIGKILL at random moments of every kind of stage, mid-shard and mid-checkpoint included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.chaos import chaos, schedule

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.slow]


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
    assert names >= {"sft", "samples", "scores", "checkpoint", "summary"}
