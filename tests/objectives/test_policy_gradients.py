"""What all policy gradients share: corrections, and where they start."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce, sum_metrics
from align.protocols import Objective
from tests.objectives.policy_gradients import PENALISED, POLICY_GRADIENTS


def make_batch(seed: int, scale: float) -> tuple[PolicyOutputs, PolicyBatch]:
    """Four rows of up to five tokens with holes; log-probs of this size."""
    generator = torch.Generator().manual_seed(seed)
    logps, mu, reference = (-scale * torch.rand(4, 5, generator=generator) for _ in range(3))
    batch = PolicyBatch(
        mask=torch.rand(4, 5, generator=generator) < 0.8,
        sampling_logps=mu,
        ref_logps=reference,
        advantages=torch.randn(4, generator=generator),
    )
    return PolicyOutputs(logps.requires_grad_(), entropy=-logps.detach()), batch


def differentiate(
    objective: Objective, outputs: PolicyOutputs, batch: PolicyBatch
) -> tuple[float, Tensor]:
    loss = reduce(objective(outputs, batch), count_items(batch))
    (grad,) = torch.autograd.grad(loss, outputs.logps)
    return loss.item(), grad


@pytest.mark.parametrize("objective", POLICY_GRADIENTS, ids=repr)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 3.0, 2e3]))
def test_a_correction_of_ones_changes_nothing_and_of_zeros_stops_everything(
    objective: Objective, seed: int, scale: float
) -> None:
    """It multiplies the policy term, whatever was clipped; NaN where masked out is not read."""
    outputs, batch = make_batch(seed, scale)
    assert batch.mask is not None
    blank = torch.where(batch.mask.bool(), torch.zeros(4, 5), math.nan)
    plain = differentiate(objective, outputs, batch)
    ones = differentiate(objective, outputs, replace(batch, correction=blank + 1))
    assert ones[0] == plain[0] and torch.equal(ones[1], plain[1])
    loss, grad = differentiate(objective, outputs, replace(batch, correction=blank))
    assert loss == 0 and grad.abs().sum() == 0


@pytest.mark.parametrize("objective", [*POLICY_GRADIENTS, *PENALISED], ids=repr)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 3.0, 2e3]))
def test_ratios_are_one_and_kl_zero_before_the_first_step(
    objective: Objective, seed: int, scale: float
) -> None:
    """I2: policy = sampler = reference, at any log-probs."""
    outputs, batch = make_batch(seed, scale)
    same = outputs.logps.detach()
    batch = replace(batch, sampling_logps=same, ref_logps=same)
    sums = sum_metrics(objective(outputs, batch).metrics)
    means = {name: (pair[0] / pair[1]).item() for name, pair in sums.items() if pair[1]}
    wanted = {"log_ratio": 0, "kl/penalty": 0, "clip_share/low": 0, "clip_share/high": 0}
    wanted |= {"ratio/mean": 1, "ratio/sequence_max": 1}
    assert all(means[name] == value for name, value in wanted.items() if name in means)
    assert ("kl/penalty" in sums) == ("ref_logps" in objective.needs)
