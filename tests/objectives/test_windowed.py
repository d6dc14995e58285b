"""Presets of the window equation: ALGORITHMS 7.8, 8.3, 14.2, by hand and by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.objectives.reinforce import Reinforce
from align.objectives.topr import Topr
from align.objectives.windowed import Cispo, Naive, PositivesOnly, Tis
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce, sum_metrics
from align.protocols import Objective
from tests.objectives.three_tokens import ThreeTokens

RATIOS = [0.1, -0.2, 0.5]
"""Log-ratios of the CISPO vector of ALGORITHMS 8.3."""


def row(advantage: float) -> tuple[PolicyOutputs, PolicyBatch]:
    """One row of three tokens with these log-ratios, policy log-probs -1, -2, -3."""
    logps = torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    mu = logps.detach() - torch.tensor([RATIOS], dtype=torch.float64)
    batch = PolicyBatch(
        mask=torch.ones(1, 3), sampling_logps=mu, advantages=torch.tensor([advantage]).double()
    )
    return PolicyOutputs(logps), batch


def differentiate(
    objective: Objective, outputs: PolicyOutputs, batch: PolicyBatch
) -> tuple[float, list[float]]:
    loss = reduce(objective(outputs, batch), count_items(batch))
    (grad,) = torch.autograd.grad(loss, outputs.logps)
    return loss.item(), grad[0].tolist()


def test_cispo_vector() -> None:
    """Cap 1.2: weights 1.105171, .818731, 1.2, and the gradient -w A / 3 also where clipped."""
    weights = [1.105171, 0.818731, 1.2]
    for advantage in (1.0, -2.0):
        loss, grad = differentiate(Cispo(max_weight=1.2), *row(advantage))
        expected = sum(w * lp for w, lp in zip(weights, [1.0, 2.0, 3.0], strict=True))
        assert loss == pytest.approx(advantage * expected / 3, abs=1e-6)
        assert grad == pytest.approx([-w * advantage / 3 for w in weights], abs=1e-6)


def test_cispo_lower_bound_is_absolute() -> None:
    """[.9, 1.2]: .818731 becomes .9."""
    _, grad = differentiate(Cispo(min_weight=0.9, max_weight=1.2), *row(3.0))
    assert grad == pytest.approx([-1.105171, -0.9, -1.2], abs=1e-6)


def test_cispo_metrics_say_which_side_was_clipped() -> None:
    """One of three tokens on either side of [.9, 1.2]."""
    found = sum_metrics(Cispo(min_weight=0.9, max_weight=1.2)(*row(1.0)).metrics)
    means = {name: (s[0] / s[1]).item() for name, s in found.items() if s[1]}
    distributions = {name for name in means if "/[" in name or "/length/" in name}
    assert {name: means[name] for name in means.keys() - distributions} == pytest.approx(
        {
            "logps": -6.0,
            "log_ratio": 0.4,
            "kl/sampler": -0.4,
            "ratio/mean": (1.105171 + 0.818731 + 1.648721) / 3,
            "ratio/sequence_max": 1.648721,
            "clip_share/low": 1 / 3,
            "clip_share/high": 1 / 3,
            "effective_positive_share": 1.0,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        (Tis(), [1.0] * 3),
        (Tis(max_weight=2.0), [1.491825] * 3),
        (Tis(max_weight=1.2, ratio_level="token"), [1.105171, 0.818731, 1.2]),
        (Tis(max_weight=2.0, ratio_level="geometric"), [1.142631] * 3),
        (Naive(), [1.0] * 3),
        (PositivesOnly(), [1.0] * 3),
    ],
    ids=repr,
)
def test_weights_of_each_preset_on_positives(objective: Objective, weights: list[float]) -> None:
    """The sum of log-ratios is .4: product 1.491825, geometric mean e^(.4 / 3) = 1.142631."""
    _, grad = differentiate(objective, *row(2.0))
    assert grad == pytest.approx([-2 * w for w in weights], abs=1e-6)


def test_negatives_by_preset() -> None:
    """A = -1 at rho = e^.4: imitated away (naive), ignored, or truncated at 1 (tis, topr)."""
    assert differentiate(Naive(), *row(-1.0))[1] == [1, 1, 1]
    assert differentiate(PositivesOnly(), *row(-1.0)) == (0, [0, 0, 0])
    for objective in (Tis(), Topr()):
        assert differentiate(objective, *row(-1.0))[1] == [1, 1, 1]
    faded = row(-1.0)[1]
    assert faded.sampling_logps is not None
    moved = PolicyBatch(
        mask=faded.mask, sampling_logps=faded.sampling_logps + 1, advantages=faded.advantages
    )  # rho = e^(.4 - 3)
    for objective in (Tis(), Topr()):
        found = differentiate(objective, row(-1.0)[0], moved)[1]
        assert found == pytest.approx([math.exp(-2.6)] * 3)


def test_positives_that_the_policy_left_fade_under_tis_and_not_under_topr() -> None:
    outputs, batch = row(1.0)
    assert batch.sampling_logps is not None
    moved = PolicyBatch(
        mask=batch.mask, sampling_logps=batch.sampling_logps + 1, advantages=batch.advantages
    )
    assert differentiate(Topr(), outputs, moved)[1] == [-1, -1, -1]
    assert differentiate(Tis(), outputs, moved)[1] == pytest.approx([-math.exp(-2.6)] * 3)


def test_presets_without_a_ratio_read_no_sampling_log_probs() -> None:
    assert Naive().needs == PositivesOnly().needs == {"advantages"}
    outputs, batch = row(1.0)
    bare = PolicyBatch(mask=batch.mask, advantages=batch.advantages)
    naive, plain = differentiate(Naive(), outputs, bare), differentiate(Reinforce(), outputs, bare)
    assert naive == plain


def expected_loss(objective: Objective, model: ThreeTokens, mu: Tensor, rewards: Tensor) -> Tensor:
    """The objective over all nine sequences, each with its chance under mu (times 9: a mean)."""
    batch = PolicyBatch(
        mask=torch.ones(9, 2), sampling_logps=mu, advantages=9 * mu.sum(-1).exp() * rewards
    )
    outputs = PolicyOutputs(model.logps(), model.entropies())
    return reduce(objective(outputs, batch), count_items(batch))


@pytest.mark.parametrize("objective", [Reinforce(), Naive(), Tis(max_weight=9.0), Tis(), Topr()])
def test_on_policy_gradient_is_that_of_the_expected_reward(objective: Objective) -> None:
    """mu = pi: every ratio is 1 and - grad L = grad E_pi[R]."""
    model = ThreeTokens(10)
    rewards = torch.randn(9, generator=torch.Generator().manual_seed(5)).double()
    wanted = torch.autograd.grad((model.chances() * rewards).sum(), model.parameters)
    loss = expected_loss(objective, model, model.logps().detach(), rewards)
    for one, two in zip(torch.autograd.grad(loss, model.parameters), wanted, strict=True):
        torch.testing.assert_close(-one, two)


def test_untruncated_importance_sampling_gradient_is_that_of_the_expected_reward() -> None:
    """Samples of mu, C above every ratio: unbiased for grad E_pi[R]; C = 1 is not."""
    model, sampler = ThreeTokens(10, scale=0.5), ThreeTokens(44, scale=0.5)
    rewards = torch.randn(9, generator=torch.Generator().manual_seed(5)).double()
    mu = sampler.logps().detach()
    wanted = torch.autograd.grad((model.chances() * rewards).sum(), model.parameters)
    loss = expected_loss(Tis(max_weight=1e3), model, mu, rewards)
    for one, two in zip(torch.autograd.grad(loss, model.parameters), wanted, strict=True):
        torch.testing.assert_close(-one, two)
    cut = torch.autograd.grad(expected_loss(Tis(), model, mu, rewards), model.parameters)
    assert (cut[0] + wanted[0]).abs().max() > 1e-2


def test_corrections_multiply_the_loss() -> None:
    """Weights 2, 0, .5 on tokens of gradient -1."""
    outputs, batch = row(1.0)
    weighted = PolicyBatch(
        mask=batch.mask,
        advantages=batch.advantages,
        correction=torch.tensor([[2.0, 0.0, 0.5]]).double(),
    )
    for objective in (Naive(), Reinforce()):
        assert differentiate(objective, outputs, weighted)[1] == [-2, 0, -0.5]


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="max_weight must be finite and above 0"):
        Tis(max_weight=0.0)
    with pytest.raises(ValueError, match=r"did you mean 1\.2\?"):
        Cispo(max_weight=0.2)
    with pytest.raises(ValueError, match="0 <= low <= high"):
        Cispo(min_weight=6.0)
    with pytest.raises(ValueError, match="set it > 0"):
        Cispo(aggregation="constant")
