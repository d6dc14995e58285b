"""ALGORITHMS 8.3: the clipped surrogate by hand, its gradient outside the window, GSPO."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.objectives.ppo_clip import Gspo, PpoClip, clipped_surrogate
from align.objectives.regularisers import KlPenalty
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce, sum_metrics
from align.protocols import Objective
from tests.objectives.metrics import per_item
from tests.objectives.three_tokens import ThreeTokens


@pytest.mark.parametrize(
    ("ratio", "advantage", "high", "dual", "expected", "slope"),
    [
        (1.5, 1.0, 0.2, None, 1.2, 0.0),
        (0.5, 1.0, 0.2, None, 0.5, 1.0),
        (4.0, 1.0, 0.2, None, 1.2, 0.0),
        (1.5, -1.0, 0.2, None, -1.5, -1.0),
        (0.5, -1.0, 0.2, None, -0.8, 0.0),
        (4.0, -1.0, 0.2, None, -4.0, -1.0),
        (4.0, -1.0, 0.2, 3.0, -3.0, 0.0),
        (1.5, 1.0, 0.28, None, 1.28, 0.0),
        (1.25, 1.0, 0.28, None, 1.25, 1.0),
        (1.0, 2.0, 0.2, 3.0, 2.0, 2.0),
        (4.0, 1.0, 0.2, 3.0, 1.2, 0.0),
    ],
)
def test_reference_vectors(
    ratio: float, advantage: float, high: float, dual: float | None, expected: float, slope: float
) -> None:
    """Clip .2, clip-higher .28, dual clip 3; the gradient by r is A inside and 0 where clipped."""
    leaf = torch.tensor([[ratio]], dtype=torch.float64, requires_grad=True)
    found = clipped_surrogate(leaf, torch.tensor([[advantage]]).double(), 0.2, high, dual)
    found.sum().backward()
    assert leaf.grad is not None
    assert found.item() == pytest.approx(expected) and leaf.grad.item() == pytest.approx(slope)


def rows(ratios: list[list[float]], advantages: list[float]) -> tuple[PolicyOutputs, PolicyBatch]:
    """Rows with these token log-ratios and policy log-probs of -1."""
    log_ratios = torch.tensor(ratios, dtype=torch.float64)
    logps = torch.full_like(log_ratios, -1.0).requires_grad_()
    batch = PolicyBatch(
        mask=torch.ones(log_ratios.shape),
        sampling_logps=-1.0 - log_ratios,
        advantages=torch.tensor(advantages).double(),
    )
    return PolicyOutputs(logps), batch


def differentiate(
    objective: Objective, outputs: PolicyOutputs, batch: PolicyBatch
) -> tuple[float, list[list[float]]]:
    loss = reduce(objective(outputs, batch), count_items(batch))
    (grad,) = torch.autograd.grad(loss, outputs.logps)
    return loss.item(), grad.tolist()


def test_token_level_by_hand() -> None:
    """Ratios 1.5, .5 | 1.5, .5 with A = 1, -1: g = 1.2, .5, -1.5, -.8; by log pi 0, .5, -1.5, 0."""
    outputs, batch = rows([[math.log(1.5), math.log(0.5)]] * 2, [1.0, -1.0])
    loss, grad = differentiate(PpoClip(), outputs, batch)
    assert loss == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    assert grad[0] == pytest.approx([0, -0.5 / 4]) and grad[1] == pytest.approx([1.5 / 4, 0])
    sums = sum_metrics(PpoClip()(outputs, batch).metrics)
    means = {name: (s[0] / s[1]).item() for name, s in sums.items()}
    assert means == pytest.approx(
        {
            "log_ratio": math.log(0.75),
            "kl/sampler": -math.log(0.75),
            "ratio/mean": 1.0,
            "ratio/sequence_max": 1.5,
            "clip_share/low": 1 / 4,
            "clip_share/high": 1 / 4,
            "logps": -2.0,
        }
    )


def test_gspo_vector() -> None:
    """[.1, -.2, .3, 0]: s = e^.05 = 1.051271, above 1.0004: clipped where A > 0, else s A with
    gradient s A / 4 a token.
    """
    ratios = [0.1, -0.2, 0.3, 0.0]
    loss, grad = differentiate(Gspo(), *rows([ratios], [1.0]))
    assert loss == pytest.approx(-1.0004) and grad == [[0, 0, 0, 0]]
    loss, grad = differentiate(Gspo(), *rows([ratios], [-1.0]))
    assert loss == pytest.approx(1.051271, abs=1e-6)
    assert grad[0] == pytest.approx([1.051271 / 4] * 4, abs=1e-6)
    inside = differentiate(Gspo(clip_high=0.1), *rows([ratios], [2.0]))
    assert inside[0] == pytest.approx(-2 * 1.051271, abs=1e-6)
    assert inside[1][0] == pytest.approx([-2 * 1.051271 / 4] * 4, abs=1e-6)


def test_gspo_of_other_lengths_is_a_mean_over_sequences() -> None:
    """On-policy, lengths 1 and 3, A = 1 and 3: -(1 + 3) / 2, gradients -1/2 and -3/2 over 3."""
    outputs, batch = rows([[0.0] * 3, [0.0] * 3], [1.0, 3.0])
    masked = PolicyBatch(
        mask=torch.tensor([[1, 0, 0], [1, 1, 1]]),
        sampling_logps=batch.sampling_logps,
        advantages=batch.advantages,
    )
    loss, grad = differentiate(Gspo(), outputs, masked)
    assert loss == pytest.approx(-2) and grad[0] == [-0.5, 0, 0]
    assert grad[1] == pytest.approx([-0.5] * 3)


def test_sequence_level_takes_the_product() -> None:
    """The same log-ratios: product e^.2 = 1.221403, clipped at 1.2 where A > 0."""
    objective = PpoClip(ratio_level="sequence", aggregation="sequence_mean")
    loss, grad = differentiate(objective, *rows([[0.1, -0.2, 0.3, 0.0]], [1.0]))
    assert loss == pytest.approx(-1.2) and grad == [[0, 0, 0, 0]]
    loss, grad = differentiate(objective, *rows([[0.1, -0.2, 0.3, 0.0]], [-1.0]))
    assert loss == pytest.approx(1.221403, abs=1e-6)
    assert grad[0] == pytest.approx([1.221403] * 4, abs=1e-6)


def test_unclipped_sequence_ratio_is_the_expected_reward() -> None:
    """E_mu[rho R] = E_pi[R] over all nine sequences, in value and gradient."""
    model, sampler = ThreeTokens(10, scale=0.5), ThreeTokens(44, scale=0.5)
    mu = sampler.logps().detach()
    rewards = torch.randn(9, generator=torch.Generator().manual_seed(5)).double()
    objective = PpoClip(
        clip_low=1.0, clip_high=1e3, ratio_level="sequence", aggregation="sequence_mean"
    )
    batch = PolicyBatch(
        mask=torch.ones(9, 2), sampling_logps=mu, advantages=9 * mu.sum(-1).exp() * rewards
    )
    loss = reduce(objective(PolicyOutputs(model.logps()), batch), count_items(batch))
    exact = (model.chances() * rewards).sum()
    assert -loss.item() == pytest.approx(exact.item())
    wanted = torch.autograd.grad(exact, model.parameters)
    for one, two in zip(torch.autograd.grad(loss, model.parameters), wanted, strict=True):
        torch.testing.assert_close(-one, two)


@pytest.mark.parametrize(
    "objective",
    [
        PpoClip(kl=KlPenalty(0.04, "k3"), entropy=0.01),
        PpoClip(clip_high=0.28, dual_clip=3.0, kl=KlPenalty(0.04, "k2")),
        PpoClip(kl=KlPenalty(0.04, "k3", off_policy=True), aggregation="constant", constant=4),
        Gspo(clip_low=0.1, clip_high=0.3, entropy=0.02),
    ],
    ids=repr,
)
def test_gradient_equals_finite_differences(objective: Objective) -> None:
    """Every logit of the three-token model up and down by 1e-6."""
    model, sampler, reference = (ThreeTokens(seed, scale=0.5) for seed in (10, 44, 77))
    batch = PolicyBatch(
        mask=torch.ones(9, 2),
        sampling_logps=sampler.logps().detach(),
        ref_logps=reference.logps().detach(),
        advantages=torch.randn(9, generator=torch.Generator().manual_seed(5)).double(),
    )

    def loss() -> Tensor:
        outputs = PolicyOutputs(model.logps(), model.entropies())
        return reduce(objective(outputs, batch), count_items(batch))

    for parameter, grad in zip(
        model.parameters, torch.autograd.grad(loss(), model.parameters), strict=True
    ):
        flat, slopes = parameter.data.view(-1), grad.reshape(-1).tolist()
        for place, slope in enumerate(slopes):
            start = flat[place].item()
            flat[place] = start + 1e-6
            above = loss().item()
            flat[place] = start - 1e-6
            below = loss().item()
            flat[place] = start
            assert (above - below) / 2e-6 == pytest.approx(slope, abs=1e-7)


def test_off_policy_sequences_with_bad_rewards_are_dropped() -> None:
    """Drift .6 nats a token above .5: only the row with A < 0 loses its gradient."""
    outputs, batch = rows([[-0.6, -0.6], [-0.6, -0.6]], [1.0, -1.0])
    objective = PpoClip(clip_low=0.9, off_policy_threshold=0.5)
    _, grad = differentiate(objective, outputs, batch)
    assert grad[0] == pytest.approx([-math.exp(-0.6) / 4] * 2) and grad[1] == [0, 0]
    assert per_item(objective(outputs, batch).metrics, "dropped_off_policy") == [0, 1]


def test_correction_multiplies_after_the_clip() -> None:
    """Ratio 1.5, A = 1, weight 2: -2 * 1.2, not -1.2 of a clipped product; 0 drops the token."""
    outputs, batch = rows([[math.log(1.5), 0.0]], [1.0])
    weighted = PolicyBatch(
        mask=batch.mask,
        sampling_logps=batch.sampling_logps,
        advantages=batch.advantages,
        correction=torch.tensor([[2.0, 0.0]]).double(),
    )
    loss, grad = differentiate(PpoClip(aggregation="sequence_sum"), outputs, weighted)
    assert loss == pytest.approx(-2.4) and grad == [[0, 0]]


@pytest.mark.parametrize("objective", [PpoClip(), Gspo(), PpoClip(ratio_level="sequence")])
def test_ratios_are_one_before_the_first_step(objective: Objective) -> None:
    """I2: policy = sampler: ratio 1, nothing clipped, loss - A, gradient that of REINFORCE."""
    outputs, batch = rows([[0.0, 0.0], [0.0, 0.0]], [1.0, -3.0])
    loss = objective(outputs, batch)
    means = {name: (s[0] / s[1]).item() for name, s in sum_metrics(loss.metrics).items()}
    assert means["ratio/mean"] == means["ratio/sequence_max"] == 1 and means["log_ratio"] == 0
    assert means["clip_share/low"] == means["clip_share/high"] == 0
    assert reduce(loss, count_items(batch)).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"clip_low": 1.5}, "clip_low must lie in 0 to 1"),
        ({"clip_high": -0.1}, "clip_high must be finite"),
        ({"dual_clip": 1.1}, "above 1 \\+ clip_high = 1.2"),
        ({"off_policy_threshold": 0.0}, "above 0 nats a token"),
        ({"aggregation": "constant"}, "set it > 0"),
        ({"entropy": -1.0}, "at least 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PpoClip(**options)  # type: ignore[arg-type]


def test_gspo_refuses_what_the_clip_refuses() -> None:
    with pytest.raises(ValueError, match="clip_low must lie in 0 to 1"):
        Gspo(clip_low=2.0)
    assert Gspo(entropy=0.1).needs == {"advantages", "sampling_logps", "entropy"}
