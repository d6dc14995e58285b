"""KL penalty and entropy bonus: terms, weights, exact gradients, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.objectives.regularisers import KlPenalty, regularise, regulariser_needs
from align.objectives.reinforce import Reinforce
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.kl import Estimator
from align.ops.reduce import Aggregation, count_items, reduce, sum_metrics
from tests.objectives.three_tokens import ThreeTokens


def small() -> tuple[PolicyOutputs, PolicyBatch]:
    """ALGORITHMS 9.1 in one row, its second token in another with padding; entropies 1, 2 | 4."""
    logps = torch.tensor([[-1.0, -1.5], [-1.5, -7.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-1.5, -1.0], [-1.0, math.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    entropy = torch.tensor([[1.0, 2.0], [4.0, math.nan]], dtype=torch.float64, requires_grad=True)
    outputs = PolicyOutputs(logps, entropy)
    return outputs, PolicyBatch(mask=mask, ref_logps=reference, advantages=torch.zeros(2))


@pytest.mark.parametrize(
    ("aggregation", "kl", "entropy"),
    [
        ("token_mean", (0.106531 + 2 * 0.148721) / 3, 7 / 3),
        ("sequence_mean", ((0.106531 + 0.148721) / 2 + 0.148721) / 2, (1.5 + 4) / 2),
        ("sequence_sum", (0.106531 + 2 * 0.148721) / 2, 3.5),
    ],
)
def test_terms_are_aggregated_as_the_objective_is(
    aggregation: Aggregation, kl: float, entropy: float
) -> None:
    """With zero advantages the loss is .04 * KL - .01 * H; k3 is .106531 and twice .148721."""
    outputs, batch = small()
    objective = Reinforce(
        aggregation=aggregation, kl=KlPenalty(weight=0.04, estimator="k3"), entropy=0.01
    )
    loss = reduce(objective(outputs, batch), count_items(batch))
    assert loss.item() == pytest.approx(0.04 * kl - 0.01 * entropy, abs=1e-6)


def test_constant_divides_the_regularisers_too() -> None:
    outputs, batch = small()
    objective = Reinforce(aggregation="constant", constant=8, kl=KlPenalty(1, "k2"))
    loss = reduce(objective(outputs, batch), count_items(batch))
    assert loss.item() == pytest.approx((0.125 * 3) / 8 / 2)


def test_metrics_in_the_units_of_the_field() -> None:
    """k3 and entropy are means over tokens."""
    outputs, batch = small()
    assert batch.mask is not None
    found = regularise(
        outputs, batch, batch.mask.bool(), KlPenalty(0.1, "k3"), 0.01, "sequence_sum"
    )
    means = {name: (s[0] / s[1]).item() for name, s in sum_metrics(found.metrics).items()}
    assert means == pytest.approx(
        {"kl/penalty": (0.106531 + 2 * 0.148721) / 3, "entropy": 7 / 3}, abs=1e-6
    )
    assert [term.weight for term in found.terms] == [0.1, -0.01]


def test_a_correction_does_not_weigh_the_regularisers() -> None:
    outputs, batch = small()
    weighted = PolicyBatch(
        mask=batch.mask,
        ref_logps=batch.ref_logps,
        advantages=batch.advantages,
        correction=torch.full((2, 2), 7.0),
    )
    objective = Reinforce(kl=KlPenalty(0.04), entropy=0.01)
    one = reduce(objective(outputs, batch), count_items(batch))
    two = reduce(objective(outputs, weighted), count_items(batch))
    assert one.item() == two.item() != 0


@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_off_policy_factor_gives_the_reverse_kl_gradient_on_stored_samples(
    estimator: Estimator,
) -> None:
    """E_mu over all nine sequences, for prefixes as mu draws them; without it the gradient is
    another one.
    """
    model, sampler, reference = (ThreeTokens(seed, scale=0.5) for seed in (10, 44, 77))
    mu = sampler.logps().detach()
    wanted = torch.autograd.grad(
        model.token_kl(reference, sampler.first.softmax(-1).detach()), model.parameters
    )

    def gradient(*, off_policy: bool) -> tuple[Tensor, ...]:
        batch = PolicyBatch(sampling_logps=mu, ref_logps=reference.logps().detach())
        found = regularise(
            PolicyOutputs(model.logps()),
            batch,
            torch.ones(9, 2).bool(),
            KlPenalty(1.0, estimator, off_policy=off_policy),
            0.0,
            "sequence_sum",
        )
        expected = (sampler.chances().detach() * found.terms[0].values).sum()
        return torch.autograd.grad(expected, model.parameters)

    for one, two in zip(gradient(off_policy=True), wanted, strict=True):
        torch.testing.assert_close(one, two)
    assert (gradient(off_policy=False)[0] - wanted[0]).abs().max() > 1e-2


def test_off_policy_k3_has_the_gradient_of_k2_sample_by_sample() -> None:
    """r k3 and sg(r) k2: r (-d) by log pi, here e^.25 * .5."""
    for estimator in ("k3", "k2", "k3+"):
        logps = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
        batch = PolicyBatch(
            sampling_logps=torch.tensor([[-1.25]]).double(),
            ref_logps=torch.tensor([[-1.5]]).double(),
        )
        kl = KlPenalty(1.0, estimator, off_policy=True)
        mask = torch.ones(1, 1).bool()
        found = regularise(PolicyOutputs(logps), batch, mask, kl, 0.0, "token_mean")
        found.terms[0].values.sum().backward()
        assert logps.grad is not None
        assert logps.grad.item() == pytest.approx(0.5 * math.exp(0.25))


def test_entropy_bonus_pushes_towards_the_uniform_law() -> None:
    """Exact: - grad of the loss = weight * grad of the mean entropy over the nine rows' tokens."""
    model = ThreeTokens(10)
    outputs = PolicyOutputs(model.logps(), model.entropies())
    batch = PolicyBatch(mask=torch.ones(9, 2), advantages=torch.zeros(9))
    objective = Reinforce(aggregation="token_mean", entropy=0.5)
    found = torch.autograd.grad(
        reduce(objective(outputs, batch), count_items(batch)), model.parameters
    )
    wanted = torch.autograd.grad(0.5 * model.entropies().mean(), model.parameters)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(-one, two)


def test_needs_follow_from_the_options() -> None:
    assert regulariser_needs(None, 0.0) == frozenset()
    assert regulariser_needs(KlPenalty(0.1), 0.0) == {"ref_logps"}
    assert regulariser_needs(KlPenalty(0.1, off_policy=True), 0.01) == {
        "ref_logps",
        "sampling_logps",
        "entropy",
    }
    assert Reinforce(entropy=0.01).needs == {"advantages", "entropy"}


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="k1 as a loss has zero expected gradient"):
        KlPenalty(0.1, "k1")
    for weight in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="finite and above 0"):
            KlPenalty(weight)
    with pytest.raises(ValueError, match=r"at least 0, not -0\.1"):
        Reinforce(entropy=-0.1)
