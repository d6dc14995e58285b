"""Early stop: at the first step beyond the bound, wherever the job was killed before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from align.data.fingerprint import tensor_hash
from align.errors import RecipeError
from align.recipe.sections import Limits
from align.training import policy_trainer
from align.training.policy import train_policy
from align.training.stopping import StopAtLimit
from tests.training.material import make_job, make_pairs, make_samples

SECTION: dict[str, object] = {
    "objective": {"name": "dpo", "beta": 0.5},
    "global_batch_size": 8,
    "args": {"max_steps": 6, "learning_rate": 3e-3, "lr_scheduler_type": "constant"},
}


def run(model: Path, out: Path, **section: object) -> dict[str, Any]:
    samples = make_samples(8)
    return train_policy(
        make_job(model, out, {**SECTION, **section}), samples, pairs=make_pairs(samples)
    )


def logged(out: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


def test_bounds_by_hand() -> None:
    """The log-ratio counts in both directions; a fall of 3 nats from -10 is a log-prob of -13."""
    both = StopAtLimit(Limits(kl=2.0, chosen_logps_drop=3.0))

    def passed(log_ratio: float, chosen: float) -> dict[str, float]:
        return both.passed({"log_ratio/reference": log_ratio, "logps/chosen": chosen}, -10.0)

    assert passed(2.0, -13.0) == {}
    assert passed(-2.5, -9.0) == {"stopped/kl": -2.5}
    assert passed(0.0, -13.5) == {"stopped/chosen_logps_drop": 3.5}


def test_bound_on_what_is_not_logged_is_refused() -> None:
    message = "train.stop.chosen_logps_drop bounds logps/chosen, which this objective does not log"
    with pytest.raises(RecipeError, match=message):
        StopAtLimit(Limits(chosen_logps_drop=1.0)).passed({"loss": 1.0}, None)


def test_stops_at_the_first_step_beyond_the_bound_also_when_resumed(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound lies between the largest |log-ratio| of the first three steps and the fourth's."""
    whole = run(tiny_llama, tmp_path / "whole")
    sizes = [abs(value) for value in logged(tmp_path / "whole", "log_ratio/reference")]
    assert whole["counts"]["steps"] == 6 and "stopped_early" not in whole["counts"]
    bound = (max(sizes[:3]) + sizes[3]) / 2
    assert max(sizes[:3]) < bound < sizes[3]
    section = {"stop": {"kl": bound}, "args": {**SECTION["args"], "save_steps": 1}}  # pyright: ignore[reportGeneralTypeIssues]
    stopped = run(tiny_llama, tmp_path / "stopped", **section)
    assert stopped["metrics"]["stopped_at_step"] == 4
    assert abs(stopped["metrics"]["stopped/kl"]) == pytest.approx(sizes[3])
    assert stopped["counts"]["stopped_early"] == 1
    assert (stopped["counts"]["steps"], stopped["counts"]["items_seen"]) == (4, 32)

    real = policy_trainer.PolicyTrainer.compute_loss

    def stop_in_step_3(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(policy_trainer.PolicyTrainer, "compute_loss", stop_in_step_3)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llama, tmp_path / "halted", **section)
    monkeypatch.undo()
    resumed = run(tiny_llama, tmp_path / "halted", **section)
    assert resumed == stopped
    assert tensor_hash(tmp_path / "halted") == tensor_hash(tmp_path / "stopped")
