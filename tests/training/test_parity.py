"""Our losses over fifty steps on real pairs are those of TRL's DPOTrainer.

What TRL computed lies in `trajectories/` (`record_trajectories.py` writes it); ours are computed
here. One loss is computed by TRL here too, so that the store cannot go stale unseen.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.trajectory import LOSSES, STEPS, STORE, our_losses, settings, trl_losses

TOLERANCE = 1e-4


def stored(name: str) -> list[float]:
    """TRL's losses, of the very settings that are in force."""
    record = json.loads((STORE / f"{name}.json").read_text())
    again = "run `python -m tests.training.record_trajectories SHARED` again"
    assert record["settings"] == settings(LOSSES[name]), f"{name}: settings changed; {again}"
    assert len(record["trl"]) == STEPS
    return record["trl"]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_fifty_steps_are_those_of_trl(name: str, shared: Path, tmp_path: Path) -> None:
    theirs = stored(name)
    assert max(theirs) - min(theirs) > 0.1, "the policy learns, so that steps depend on each other"
    assert our_losses(shared, tmp_path / "ours", LOSSES[name]) == pytest.approx(
        theirs, abs=TOLERANCE
    )


def test_stored_losses_are_what_trl_computes_today(shared: Path, tmp_path: Path) -> None:
    theirs = trl_losses(shared, tmp_path / "theirs", LOSSES["sigmoid"])
    assert theirs == pytest.approx(stored("sigmoid"), abs=TOLERANCE)
