"""SLiC, SimPO, ORPO, CPO and REDI on the standard pair (ALGORITHMS 3.1, 4.1, 11.1, 11.9)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from align.objectives.cpo import Cpo
from align.objectives.dpo import Dpo
from align.objectives.orpo import Orpo
from align.objectives.redi import Redi
from align.objectives.simpo import Simpo
from align.objectives.slic import Slic
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce, sum_metrics
from align.protocols import Objective
from tests.objectives.metrics import per_item


def standard_pair() -> tuple[PolicyOutputs, PolicyBatch]:
    """TP without its reference: -12 over 4 tokens, -15 over 6."""
    mask = torch.tensor([[1] * 4 + [0] * 2, [1] * 6]).bool()
    logps = torch.tensor([[-3.0] * 6, [-2.5] * 6], dtype=torch.float64)
    batch = PolicyBatch(mask=mask, chosen=torch.tensor([0]), rejected=torch.tensor([1]))
    return PolicyOutputs(logps.requires_grad_()), batch


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Simpo(beta=2.0, gamma=1.0), 2.126928),
        (Simpo(beta=2.0, gamma_beta_ratio=0.5), 2.126928),
        (Orpo(), 3.099574),
        (Orpo(odds_weight=1.0), 3.0 + 0.995743),
        (Orpo(odds_weight=0.0), 3.0),
        (Cpo(nll_weight=0.0), 0.554355),
        (Cpo(), 3.554355),
        (Cpo(nll_norm="sequence_mean"), 3.554355),
        (Cpo(nll_norm="sequence_sum", nll_weight=0.1), 0.554355 + 1.2),
        (Slic(nll_weight=0.1), 1.200000),
        (Slic(beta=0.05, nll_weight=0.0), 0.850000),
        (Slic(delta=20.0, nll_weight=0.0), 17.0),
        (Redi(), 1.000000),
        (Redi(rejected_weight=1.0), 0.5),
    ],
    ids=repr,
)
def test_values_on_the_standard_pair(objective: Objective, expected: float) -> None:
    """slic with beta = gamma = .05 is RSO's hinge; with delta = 1 / gamma = 20 it is 17."""
    outputs, batch = standard_pair()
    assert reduce(objective(outputs, batch), count_items(batch)).item() == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(
    ("objective", "slope_w", "slope_l"),
    [
        (Simpo(beta=2.0, gamma=1.0), -2 * 0.880797 / 4, 2 * 0.880797 / 6),
        (Cpo(nll_weight=0.0), -0.1 * 0.425557, 0.1 * 0.425557),
        (Slic(beta=0.05, nll_weight=0.0), -0.05, 0.05),
        (Redi(), -1 / 4, 0.8 / 6),
    ],
    ids=repr,
)
def test_gradients_on_the_standard_pair(
    objective: Objective, slope_w: float, slope_l: float
) -> None:
    """At every trained token; sigma(2) = .880797 and sigma(-.3) = .425557."""
    outputs, batch = standard_pair()
    reduce(objective(outputs, batch), count_items(batch)).backward()
    grad = outputs.logps.grad
    assert grad is not None
    assert grad[0].tolist() == pytest.approx([slope_w] * 4 + [0.0] * 2, abs=1e-6)
    assert grad[1].tolist() == pytest.approx([slope_l] * 6, abs=1e-6)


def test_lengths_flip_the_order_that_simpo_sees() -> None:
    """ALGORITHMS 3.2: d > 0 for DPO on TP, while SimPO's inner term is 2 * (-3 + 2.5) - 1 = -2."""
    outputs, batch = standard_pair()
    loss = Simpo(beta=2.0, gamma=1.0)(outputs, batch)
    assert loss.terms[0].values.item() == pytest.approx(math.log1p(math.exp(2.0)))
    assert per_item(loss.metrics, "rewards/accuracies") == [0.0]
    ref = torch.tensor([[-3.25] * 6, [-14.5 / 6] * 6], dtype=torch.float64)
    pair = PolicyBatch(batch.mask, ref_logps=ref, chosen=batch.chosen, rejected=batch.rejected)
    assert per_item(Dpo()(outputs, pair).metrics, "rewards/accuracies") == [1.0]


def test_orpo_stays_finite_at_probability_one() -> None:
    """Mean log-prob 0 counts as -1e-6: odds 1e6, and no gradient of the odds through it."""
    logps = torch.zeros(2, 1, requires_grad=True)
    batch = PolicyBatch(mask=torch.ones(2, 1), chosen=torch.tensor([0]), rejected=torch.tensor([1]))
    loss = reduce(Orpo()(PolicyOutputs(logps), batch), count_items(batch))
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * math.log(2))
    assert logps.grad is not None and logps.grad.tolist() == [[-1.0], [0.0]]


@pytest.mark.parametrize(
    ("objective", "chosen", "rejected"),
    [
        (Simpo(beta=2.0, gamma=1.0), -6.0, -5.0),
        (Orpo(), -0.3, -0.25),
        (Cpo(), -1.2, -1.5),
        (Slic(beta=0.5), -6.0, -7.5),
        (Redi(), -3.0, -2.5),
    ],
    ids=repr,
)
def test_implicit_rewards(objective: Objective, chosen: float, rejected: float) -> None:
    """beta or lambda times the mean log-prob (-3, -2.5) or the sum (-12, -15)."""
    outputs, batch = standard_pair()
    sums = sum_metrics(objective(outputs, batch).metrics)
    found = {name: (pair[0] / pair[1]).item() for name, pair in sums.items()}
    assert found == pytest.approx(
        {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": float(chosen > rejected),
            "logps/chosen": -12.0,
            "logps/rejected": -15.0,
        }
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Simpo(), "exactly one of gamma"),
        (lambda: Simpo(gamma=1.0, gamma_beta_ratio=0.5), "exactly one of gamma"),
        (lambda: Simpo(beta=0.0, gamma=1.0), "beta must be finite and above 0"),
        (lambda: Simpo(gamma=-1.0), "gamma must be finite and at least 0"),
        (lambda: Orpo(odds_weight=-0.1), "odds_weight"),
        (lambda: Cpo(beta=-1.0), "beta must be finite and above 0"),
        (lambda: Cpo(nll_weight=-1.0), "nll_weight"),
        (lambda: Slic(delta=0.0), "delta must be finite and above 0"),
        (lambda: Slic(nll_weight=math.nan), "nll_weight"),
        (lambda: Redi(rejected_weight=-0.8), "rejected_weight"),
    ],
)
def test_impossible_options_are_refused(make: Callable[[], Objective], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()
