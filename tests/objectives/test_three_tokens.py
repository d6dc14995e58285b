"""Gradients of every preference objective on a three-token model against finite differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from align.objectives.dpo import Dpo
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce
from align.protocols import Objective
from tests.objectives.pair_objectives import PREFERENCE_OBJECTIVES, step_for

TOKENS = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 0], [0, 2, 1]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
STEP = 1e-5


def policy_of(table: Tensor) -> PolicyOutputs:
    """A Markov model over three tokens: row 0 of `table` (4, 3) has the logits of the first token,
    row 1 + v those after token v.
    """
    before = torch.cat([torch.zeros(4, 1, dtype=torch.long), 1 + TOKENS[:, :-1]], dim=1)
    logps = table.log_softmax(-1)[before]
    return PolicyOutputs(
        logps.gather(-1, TOKENS[..., None]).squeeze(-1),
        sum_p_squared=(2 * logps).exp().sum(-1).detach(),
    )


def fixture() -> tuple[Tensor, PolicyBatch]:
    """A policy, and a reference that is not it."""
    generator = torch.Generator().manual_seed(7)
    table, other = (torch.randn(4, 3, generator=generator).double() for _ in range(2))
    batch = PolicyBatch(
        mask=MASK,
        ref_logps=policy_of(other).logps,
        scores=torch.tensor([1.0, -1.0, 0.0, 1.0]),
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 3]),
        margin=torch.tensor([0.3, 0.8]).double(),
        from_reference=torch.tensor([True, False, True, True]),
    )
    return table, batch


@pytest.mark.parametrize("objective", PREFERENCE_OBJECTIVES, ids=repr)
def test_gradient_is_the_slope_of_the_loss(objective: Objective) -> None:
    """Central differences in each of the twelve logits. What carries no gradient is held still:
    constants of the step, and wpo's weights by dividing them out.
    """
    table, batch = fixture()
    held = objective.scope == "global_batch" and objective != Dpo(loss="aot_unpaired")
    if held:  # aot_unpaired shares each value between two pairs, so that only its sum has the slope
        sums = step_for(
            policy_of(table).logps, batch, slice(0, 2), torch.tensor([0.3, 0.5]).double()
        )
        batch = replace(batch, step=sums)
    fixed_logps = policy_of(table)

    def loss_at(values: Tensor) -> Tensor:
        outputs = policy_of(values)
        if isinstance(objective, Dpo) and objective.loss == "wpo":
            plain = Dpo()(outputs, batch).terms[0].values
            weighted = objective(fixed_logps, batch).terms[0].values
            weights = weighted / Dpo()(fixed_logps, batch).terms[0].values
            return (weights * plain).mean()
        return reduce(objective(outputs, batch), count_items(batch))

    leaf = table.clone().requires_grad_()
    value = reduce(objective(policy_of(leaf), batch), count_items(batch))
    (found,) = torch.autograd.grad(value, leaf)
    slopes = torch.zeros_like(table)
    for place in range(table.numel()):
        nudge = torch.zeros(table.numel()).double()
        nudge[place] = STEP
        nudge = nudge.reshape(table.shape)
        slopes.view(-1)[place] = (loss_at(table + nudge) - loss_at(table - nudge)) / (2 * STEP)
    assert found.abs().max() > 1e-4
    torch.testing.assert_close(found, slopes, rtol=1e-6, atol=1e-8)
