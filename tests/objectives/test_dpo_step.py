"""BCO and AOT: constants of the whole optimizer step (ALGORITHMS 3.1, I3)."""

from __future__ import annotations

import math

import pytest
import torch

from align.objectives.dpo import Dpo, PairLoss
from align.ops.batch import PolicyBatch, PolicyOutputs, StepSums
from align.ops.reduce import count_items, reduce
from tests.objectives.metrics import per_item
from tests.objectives.pair_objectives import step_for

POLICY = torch.tensor([[-12.0], [-15.0], [-9.0], [-9.5]]).double()
REFERENCE = torch.tensor([[-13.0], [-14.5], [-9.2], [-9.9]]).double()


def two_pairs(rows: slice, step: StepSums | None = None) -> PolicyBatch:
    """S_w = [-12, -9], S_l = [-15, -9.5], ref_w = [-13, -9.2], ref_l = [-14.5, -9.9]."""
    pairs = len(REFERENCE[rows]) // 2
    return PolicyBatch(
        mask=torch.ones(2 * pairs, 1),
        ref_logps=REFERENCE[rows],
        chosen=torch.arange(pairs) * 2,
        rejected=torch.arange(pairs) * 2 + 1,
        step=step,
    )


@pytest.mark.parametrize(("loss", "expected"), [("aot", 0.662077), ("aot_unpaired", 0.661178)])
def test_aot_vectors(loss: PairLoss, expected: float) -> None:
    """aot: margins 3, .5 against the reference's 1.5, .7, already in order. aot_unpaired: u_w = 1,
    .2 against u_l = .4, -.5 in order.
    """
    batch = two_pairs(slice(None))
    objective = Dpo(loss=loss)
    found = reduce(objective(PolicyOutputs(POLICY), batch), count_items(batch)).item()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", "bco"])
def test_pairs_one_by_one_give_the_gradient_of_the_sorted_batch(loss: PairLoss) -> None:
    """Each pair alone, told the sums of the step, against the formula of the whole in one graph."""
    objective = Dpo(loss=loss)
    whole = POLICY.clone().requires_grad_()
    u = (whole - REFERENCE).squeeze(-1)
    u_w, u_l = u[0::2], u[1::2]
    if loss == "aot":
        policy = (whole[0::2] - whole[1::2]).squeeze(-1).sort().values
        delta = policy - (REFERENCE[0::2] - REFERENCE[1::2]).squeeze(-1).sort().values
        formula = -torch.nn.functional.logsigmoid(0.1 * delta)
    elif loss == "aot_unpaired":
        formula = -torch.nn.functional.logsigmoid(0.1 * (u_w.sort().values - u_l.sort().values))
    else:  # delta = .1 * (1 - .5 + .2 + .4) / 4
        formula = -torch.nn.functional.logsigmoid(0.1 * u_w - 0.0275)
        formula = formula - torch.nn.functional.logsigmoid(0.0275 - 0.1 * u_l)
    formula.mean().backward()

    counts = count_items(two_pairs(slice(None)))
    total, grads = 0.0, []
    for rows, own in ((slice(0, 2), slice(0, 1)), (slice(2, 4), slice(1, 2))):
        leaf = POLICY[rows].clone().requires_grad_()
        batch = two_pairs(rows, step_for(POLICY, two_pairs(slice(None)), own))
        value = reduce(objective(PolicyOutputs(leaf), batch), counts)
        value.backward()
        total += value.item()
        grads.append(leaf.grad)
    assert total == pytest.approx(formula.mean().item(), abs=1e-12)
    assert whole.grad is not None
    torch.testing.assert_close(torch.cat(grads), whole.grad)


def test_aot_matches_ranks_and_not_pairs() -> None:
    """With the reference's margins the other way round (.7, 1.5) the targets are the same."""
    swapped = REFERENCE[[2, 3, 0, 1]]
    batch = PolicyBatch(
        mask=torch.ones(4, 1),
        ref_logps=swapped,
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 3]),
    )
    loss = Dpo(loss="aot")(PolicyOutputs(POLICY), batch)
    assert reduce(loss, count_items(batch)).item() == pytest.approx(0.662077, abs=1e-6)
    assert Dpo()(PolicyOutputs(POLICY), batch).terms[0].values.tolist() != pytest.approx(
        loss.terms[0].values.tolist()
    )


def test_a_pair_without_trained_tokens_moves_no_constant() -> None:
    """A third pair whose rejected side is masked out: bco's delta and value stay those of TP."""
    mask = torch.tensor([[1], [1], [1], [0]])
    batch = PolicyBatch(
        mask=mask,
        ref_logps=REFERENCE,
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 3]),
    )
    loss = Dpo(loss="bco")(PolicyOutputs(POLICY), batch)
    assert loss.terms[0].values.tolist() == pytest.approx([1.312700, 0.0], abs=1e-6)
    assert math.isnan(per_item(loss.metrics, "rewards/chosen")[1])
