"""ALGORITHMS 9.1: values, gradients by exact expectations, and extreme differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from align.ops.kl import Estimator, estimate_kl
from tests.objectives.three_tokens import ThreeTokens

ESTIMATORS: list[Estimator] = ["k1", "k2", "k3", "k3+"]


@pytest.mark.parametrize(
    ("logp", "reference", "expected"),
    [(-1.0, -1.5, [0.5, 0.125, 0.106531]), (-1.5, -1.0, [-0.5, 0.125, 0.148721])],
)
def test_reference_vectors(logp: float, reference: float, expected: list[float]) -> None:
    """d = -.5 and .5: k1 = -d, k2 = d^2 / 2, k3 = e^d - d - 1; k3+ has the value of k3."""
    one = torch.tensor([[logp]], dtype=torch.float64)
    other = torch.tensor([[reference]], dtype=torch.float64)
    mask = torch.ones(1, 1).bool()
    found = [estimate_kl(one, other, mask, name).item() for name in ESTIMATORS]
    assert found == pytest.approx([*expected, expected[2]], abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", 1.0), ("k2", 0.5), ("k3", 1 - 0.6065306597), ("k3+", 0.5)],
)
def test_gradient_of_one_token(estimator: Estimator, expected: float) -> None:
    """d = -.5, by log pi: 1, -d, 1 - e^d, -d."""
    logps = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-1.5]], dtype=torch.float64)
    estimate_kl(logps, reference, torch.ones(1, 1).bool(), estimator).sum().backward()
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(expected, abs=1e-9)


def expected_penalty(model: ThreeTokens, reference: Tensor, estimator: Estimator) -> Tensor:
    """Sum over all sequences of pi(y) sum_t KL_t(y), with the chances held."""
    values = estimate_kl(model.logps(), reference, torch.ones(9, 2).bool(), estimator)
    return (model.chances().detach()[:, None] * values).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3", "k3+"])
def test_value_is_unbiased(estimator: Estimator) -> None:
    """E_pi of the sum over tokens is KL(pi || ref) of sequences; k2 is biased."""
    model, other = ThreeTokens(10, scale=0.5), ThreeTokens(77, scale=0.5)
    reference = other.logps().detach()
    exact = (model.chances() * (model.logps() - reference).sum(-1)).sum()
    assert expected_penalty(model, reference, estimator).item() == pytest.approx(exact.item())
    biased = expected_penalty(model, reference, "k2").item()
    assert biased != pytest.approx(exact.item(), rel=1e-3)


@pytest.mark.parametrize("estimator", ["k2", "k3+"])
def test_gradient_is_that_of_the_reverse_kl(estimator: Estimator) -> None:
    """On-policy, at every prefix: grad of sum over prefixes of chance * KL(pi(.|p) || ref(.|p))."""
    model, other = ThreeTokens(10), ThreeTokens(77)
    wanted = torch.autograd.grad(model.token_kl(other), model.parameters)
    penalty = expected_penalty(model, other.logps().detach(), estimator)
    found = torch.autograd.grad(penalty, model.parameters)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
        assert two.abs().max() > 1e-2


def test_k1_has_zero_expected_gradient_and_k3_a_different_one() -> None:
    model, other = ThreeTokens(10), ThreeTokens(77)
    reference = other.logps().detach()
    for grad in torch.autograd.grad(expected_penalty(model, reference, "k1"), model.parameters):
        assert grad.abs().max() < 1e-12
    wanted = torch.autograd.grad(model.token_kl(other), model.parameters)
    forward = torch.autograd.grad(expected_penalty(model, reference, "k3"), model.parameters)
    assert (wanted[0] - forward[0]).abs().max() > 1e-2


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("logp", [-1e4, 0.0])
def test_extreme_differences_stay_finite(estimator: Estimator, logp: float) -> None:
    """|d| = 1e4: k3 stops at 10 without a gradient, k3+ keeps k2's, -d."""
    logps = torch.tensor([[logp]], requires_grad=True)
    reference = torch.tensor([[-1e4 - logp]])
    value = estimate_kl(logps, reference, torch.ones(1, 1).bool(), estimator).sum()
    value.backward()
    assert logps.grad is not None and value.isfinite() and logps.grad.isfinite().all()
    if estimator == "k3":
        assert value.item() == 10 and logps.grad.item() == 0
    if estimator == "k3+":
        assert value.item() == 10 and logps.grad.item() == logp * 2 + 1e4


def test_a_small_difference_is_not_lost_in_rounding() -> None:
    """D = 1e-3 in float32: k3 = d^2 / 2 + d^3 / 6 = 5.001667e-7 to seven digits of e^d - 1."""
    logps = torch.tensor([[0.0]])
    found = estimate_kl(logps, torch.tensor([[1e-3]]), torch.ones(1, 1).bool(), "k3")
    assert found.item() == pytest.approx(5.001667e-7, rel=1e-3)


def test_masked_tokens_are_zero() -> None:
    logps = torch.tensor([[-1.0, float("nan")]])
    found = estimate_kl(logps, torch.zeros(1, 2), torch.tensor([[True, False]]), "k2")
    assert found.tolist() == [[0.5, 0.0]]
