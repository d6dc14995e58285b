"""Stored against recomputed log-probs, and `train.correction` in a whole job."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from align.errors import DataError
from align.inference.logps import TokenRow, completion_logps
from align.models import load_causal
from align.recipe.sections import Correction
from align.records import Sample, WeightsRef
from align.training.policy import train_policy
from align.training.sampler_mismatch import correct_samples, measure_mismatch
from tests.training.material import (
    SGD,
    fingerprint_of,
    make_job,
    make_samples,
    make_scores,
    relative_gap,
    update_of,
)


def with_logps(sample: Sample, *values: float) -> Sample:
    ids = tuple(range(4, 4 + len(values)))
    return replace(sample, completion_ids=ids, loss_mask=(1,) * len(ids), logps=values)


def test_statistics_by_hand() -> None:
    """q = log old - log mu = .5 and -.5 in one sample, 0 in the other, which has another token that
    is not trained on: mean |q| = 1/3, max .5; k3 = (e^.5 - 1.5 + e^-.5 - .5 + 0) / 3; both
    sequences have ratio 1, so all count.
    """
    one, other = make_samples(1)
    one = with_logps(one, -1.0, -1.0)
    other = replace(with_logps(other, -2.0, -9.0), loss_mask=(1, 0))
    old = [torch.tensor([-0.5, -1.5]), torch.tensor([-2.0, -1.0])]
    found = measure_mismatch([one, other, replace(other, logps=None)], [*old, old[1]])
    assert found == pytest.approx(
        {
            "sampler_mismatch/mean": 1 / 3,
            "sampler_mismatch/max": 0.5,
            "sampler_mismatch/k3": (math.exp(0.5) - 1.5 + math.exp(-0.5) - 0.5) / 3,
            "sampler_mismatch/effective_share": 1.0,
            "sampler_mismatch/kept_share": 1.0,
        }
    )
    assert measure_mismatch([replace(one, logps=None)], old[:1]) == {}


def test_weights_are_per_sample_and_drops_are_counted() -> None:
    """IcePop in [.5, 2]: e^.1 and e^-.1 stay, e^1 is dropped; of the second sample nothing is
    left."""
    one, other = make_samples(1)
    samples = [with_logps(one, 0.0, 0.0, 0.0), with_logps(other, 0.0)]
    stored = [torch.zeros(3), torch.zeros(1)]
    old = [torch.tensor([0.1, -0.1, 1.0]), torch.tensor([-1.0])]
    correction = Correction(kind="token_mask", low=0.5, high=2.0)
    weights, counts, metrics = correct_samples(samples, old, stored, correction)
    assert weights[0].tolist() == pytest.approx([math.exp(0.1), math.exp(-0.1), 0.0])
    assert weights[1].tolist() == [0.0]
    assert counts == {"correction_tokens_dropped": 2, "correction_sequences_dropped": 1}
    assert metrics["sampler_mismatch/kept_share"] == 0.5


def test_correction_that_drops_everything_is_refused() -> None:
    samples = [with_logps(sample, -9.0) for sample in make_samples(1)]
    stored = [torch.tensor([-9.0])] * 2
    correction = Correction(kind="sequence_mask", high=3.0)
    with pytest.raises(DataError, match=r"sequence_mask in \[0, 3\].* drops all 2 samples"):
        correct_samples(samples, [torch.tensor([-1.0])] * 2, stored, correction)


def test_correction_weighs_the_gradient(tiny_llama: Path, tmp_path: Path) -> None:
    """The sampler stored log pi - log 2 a token, so every q is log 2. Token TIS in [0, 1.5] weighs
    each token by 1.5: the update of REINFORCE is 1.5 times that without correction.
    """
    samples = make_samples(8, policy=fingerprint_of(tiny_llama), temperature=0.7)
    rows = [TokenRow(s.prompt_ids, s.completion_ids, 0.7) for s in samples]
    found = completion_logps(load_causal(WeightsRef(str(tiny_llama))), rows, pad_id=0)
    samples = [
        replace(s, logps=tuple((values - math.log(2)).tolist()))
        for s, values in zip(samples, found, strict=True)
    ]
    updates = []
    for name, correction in (("plain", None), ("mended", {"kind": "token_tis", "high": 1.5})):
        section = {
            "objective": {"name": "reinforce"},
            "global_batch_size": 16,
            "micro_batch_size": 4,
            "correction": correction,
            "args": {**SGD, "learning_rate": 0.01},
        }
        job = make_job(tiny_llama, tmp_path / name, section)
        result = train_policy(job, samples, scores=make_scores(samples))
        updates.append(update_of(tiny_llama, tmp_path / name))
    assert result["counts"]["correction_tokens_dropped"] == 0
    assert result["metrics"]["sampler_mismatch/mean"] == pytest.approx(math.log(2), abs=1e-5)
    assert updates[0].norm() > 0.01
    assert relative_gap(1.5 * updates[0], updates[1]) < 1e-4


def test_correction_of_samples_without_log_probs_is_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    samples = make_samples(4, policy=fingerprint_of(tiny_llama))
    section = {
        "objective": {"name": "topr"},
        "global_batch_size": 8,
        "correction": {"kind": "sequence_tis", "high": 2.0},
    }
    message = "8 of 8 samples have no stored log-probs .* train.correction compares with them"
    with pytest.raises(DataError, match=message):
        train_policy(
            make_job(tiny_llama, tmp_path / "out", section), samples, scores=make_scores(samples)
        )
