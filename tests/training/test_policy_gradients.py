"""Policy gradients through the real engine: the split does not matter, metrics have their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.training.policy import train_policy
from tests.training.material import (
    SGD,
    fingerprint_of,
    make_job,
    make_samples,
    make_scores,
    relative_gap,
    update_of,
)

PENALTIES: dict[str, object] = {"kl": {"weight": 0.04, "estimator": "k3"}, "entropy": 0.01}


@pytest.mark.parametrize(
    ("objective", "advantage"),
    [
        (
            {"name": "ppo_clip", "aggregation": "sequence_mean", **PENALTIES},
            {"baseline": "group_mean", "normalise": "group"},
        ),
        ({"name": "cispo", "kl": {"weight": 0.1}}, {"baseline": "leave_one_out"}),
        ({"name": "gspo", **PENALTIES}, {"baseline": "group_mean", "normalise": "whiten"}),
    ],
    ids=["grpo", "cispo", "gspo"],
)
def test_update_does_not_depend_on_the_micro_batch_split(
    tiny_llama: Path, tmp_path: Path, objective: dict[str, object], advantage: dict[str, object]
) -> None:
    """I3 with two steps, so that the second has ratios other than 1 and a KL other than 0."""
    samples = make_samples(8, policy=fingerprint_of(tiny_llama))
    updates = []
    for micro in (8, 2):
        out = tmp_path / str(micro)
        section = {
            "objective": objective,
            "advantage": advantage,
            "global_batch_size": 8,
            "micro_batch_size": micro,
            "args": SGD | {"learning_rate": 0.1, "logging_steps": 1},
        }
        result = train_policy(
            make_job(tiny_llama, out, section), samples, scores=make_scores(samples)
        )
        updates.append(update_of(tiny_llama, out))
        metrics = result["metrics"]
        assert {"log_ratio/reference", "ratio/mean", "ratio/sequence_max"} <= metrics.keys()
        assert "clip_share/low" in metrics
        assert metrics["entropy"] > 0
        assert metrics["kl/penalty"] > 0
    assert updates[0].norm() > 1e-3
    assert relative_gap(updates[0], updates[1]) < 1e-5
