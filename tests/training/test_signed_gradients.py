"""The gradients of positive and negative samples, apart, in a real step."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import RecipeError
from align.objectives.topr import Topr
from align.training.policy import train_policy
from align.training.signed_gradients import SignedGradients
from tests.training.material import (
    SGD,
    fingerprint_of,
    make_job,
    make_pairs,
    make_samples,
    make_scores,
    relative_gap,
    update_of,
)


def test_norms_are_those_of_the_two_parts_of_the_update(tiny_llama: Path, tmp_path: Path) -> None:
    """One step of gradient descent at rate 1, four forwards, so that the update is the gradient.

    Before it TOPR's is that of `positives_only` (the same denominator) and that of the negatives.
    """
    samples = make_samples(4, policy=fingerprint_of(tiny_llama))
    updates, metrics = {}, {}
    for name, objective, also in (
        ("measured", "topr", {"gradient_norms": 3}),
        ("plain", "topr", {}),
        ("positives", "positives_only", {}),
    ):
        section = {
            "objective": {"name": objective},
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "args": SGD,
            **also,
        }
        job = make_job(tiny_llama, tmp_path / name, section)
        metrics[name] = train_policy(job, samples, scores=make_scores(samples))["metrics"]
        updates[name] = update_of(tiny_llama, tmp_path / name)
    assert relative_gap(updates["measured"], updates["plain"]) == 0
    norms = {sign: metrics["measured"][f"grad_norm/{sign}"] for sign in ("positives", "negatives")}
    assert norms["positives"] == pytest.approx(float(updates["positives"].norm()), rel=1e-4)
    negatives = updates["plain"] - updates["positives"]
    assert norms["negatives"] == pytest.approx(float(negatives.norm()), rel=1e-4)
    assert "grad_norm/positives" not in metrics["plain"]


def test_every_third_step_is_measured() -> None:
    signed = SignedGradients(3, Topr(), is_sharded=False)
    assert [step for step in range(7) if signed.measures(step)] == [0, 3, 6]


def test_what_cannot_be_measured_is_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ZeRO-3 and FSDP"):
        SignedGradients(1, Topr(), is_sharded=True)
    samples = make_samples(2)
    section = {"objective": {"name": "dpo"}, "global_batch_size": 2, "gradient_norms": 1}
    with pytest.raises(RecipeError, match="this objective reads none"):
        train_policy(make_job(tiny_llama, tmp_path, section), samples, pairs=make_pairs(samples))
