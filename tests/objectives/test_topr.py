"""ALGORITHMS 7.9, the tapered objective of 7.2 by enumeration, levels, metrics and refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from align.objectives.topr import Topr
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce, sum_metrics
from align.ops.windows import RatioLevel
from tests.objectives.metrics import per_item


def reference_batch(tokens: int) -> tuple[PolicyOutputs, PolicyBatch]:
    """The four rows of 7.9, each sum spread over `tokens` tokens, then one of padding."""
    sums = torch.tensor([[-10.0, -8.0], [-12.0, -9.0], [-5.0, -6.0], [-7.0, -7.5]]).double()
    logps = torch.full((4, tokens + 1), -50.0).double()
    mu = torch.full((4, tokens + 1), math.inf).double()
    logps[:, :tokens] = sums[:, :1] / tokens
    mu[:, :tokens] = sums[:, 1:] / tokens
    mask = torch.ones(4, tokens + 1)
    mask[:, -1] = 0
    batch = PolicyBatch(
        mask=mask, sampling_logps=mu, advantages=torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    )
    return PolicyOutputs(logps.requires_grad_()), batch


@pytest.mark.parametrize("tokens", [1, 5])
def test_reference_vector(tokens: int) -> None:
    outputs, batch = reference_batch(tokens)
    loss = Topr()(outputs, batch)
    assert loss.terms[0].per == "sequence"
    assert loss.terms[0].values.tolist() == pytest.approx([10, -0.597445, -5, 7], abs=1e-6)
    total = reduce(loss, count_items(batch))
    assert total.item() == pytest.approx(2.850639, abs=1e-6)
    total.backward()
    assert outputs.logps.grad is not None
    assert outputs.logps.grad[:, 0].tolist() == pytest.approx(
        [-0.25, 0.049787 / 4, 0.25, -0.25], abs=1e-6
    )
    assert outputs.logps.grad[:, -1].tolist() == [0, 0, 0, 0]


def taper(rho: Tensor, low: float, high: float) -> Tensor:
    """T(rho, a, b) of 7.2: log tails outside [a, b]; for a = 0 there is no lower tail."""
    upper = high * (1 + torch.log(rho / high)) if high > 0 else 0 * rho
    tapered = torch.where(rho > high, upper, rho)
    return torch.where(rho < low, low * (1 + torch.log(rho / low)), tapered) if low else tapered


def test_taper_vector() -> None:
    """7.9: R * T = -1, -.049787, -2, 1.5 and J = -.387447."""
    rho = torch.tensor([-2.0, -3.0, 1.0, 0.5]).double().exp()
    windows = [(1, 1), (0, 1), (0, 1), (1, 1)]
    values = [taper(r, *window).item() for r, window in zip(rho, windows, strict=True)]
    signed = [v * s for v, s in zip(values, [1, -1, -1, 1], strict=True)]
    assert signed == pytest.approx([-1, -0.049787, -2, 1.5], abs=1e-6)
    assert sum(signed) / 4 == pytest.approx(-0.387447, abs=1e-6)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [((1.0, 1.0), (0.0, 1.0)), ((0.0, 1.0), (0.0, 1.0)), ((0.5, 1.5), (0.2, 0.8))],
)
def test_gradient_is_that_of_the_tapered_objective(
    positive: tuple[float, float], negative: tuple[float, float]
) -> None:
    """All 9 two-token sequences of a three-token model: -grad of the loss = grad E_mu[R T(pi /
    mu)].
    """
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(size, generator=generator).double() for size in (3, (3, 3)))
    policy = [first.requires_grad_(), second.requires_grad_()]
    mu_first = torch.randn(3, generator=generator).double().log_softmax(-1)
    mu_second = torch.randn(3, 3, generator=generator).double().log_softmax(-1)
    rewards = torch.randn(9, generator=generator).double()
    sequences = list(itertools.product(range(3), repeat=2))

    def score(one: Tensor, two: Tensor) -> Tensor:
        return torch.stack([torch.stack([one[a], two[a, b]]) for a, b in sequences])

    logps = score(first.log_softmax(-1), second.log_softmax(-1))
    mu = score(mu_first, mu_second)
    chances = mu.sum(-1).exp()
    rho = (logps.sum(-1) - mu.sum(-1)).exp()
    objective = torch.where(rewards >= 0, taper(rho, *positive), taper(rho, *negative))
    wanted = torch.autograd.grad((chances * rewards * objective).sum(), policy, retain_graph=True)

    batch = PolicyBatch(  # the expectation under mu as a weight of each row, times 9 for the mean
        mask=torch.ones(9, 2), sampling_logps=mu, advantages=9 * chances * rewards
    )
    loss = Topr(positive=positive, negative=negative)(PolicyOutputs(logps), batch)
    found = torch.autograd.grad(reduce(loss, count_items(batch)), policy)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(-one, two)


@pytest.mark.parametrize("level", ["sequence", "token", "geometric"])
def test_ratio_on_policy_is_one_at_every_level(level: RatioLevel) -> None:
    """policy = sampler: plain REINFORCE, whose gradient is -A / N at every token."""
    logps = (-torch.rand(2, 3)).requires_grad_()
    batch = PolicyBatch(
        mask=torch.ones(2, 3),
        sampling_logps=logps.detach().clone(),
        advantages=torch.tensor([2.0, -3.0]),
    )
    loss = Topr(ratio_level=level)(PolicyOutputs(logps), batch)
    reduce(loss, count_items(batch)).backward()
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, torch.tensor([[-1.0] * 3, [1.5] * 3]))
    assert per_item(loss.metrics, "log_ratio") == [0, 0]


def test_a_missing_sampling_logp_counts_as_ratio_one() -> None:
    """NaN at the second token: rho is that of the first, e^-1."""
    batch = PolicyBatch(
        mask=torch.ones(1, 2),
        sampling_logps=torch.tensor([[-1.0, math.nan]]),
        advantages=torch.tensor([-1.0]),
    )
    loss = Topr()(PolicyOutputs(torch.tensor([[-2.0, -4.0]])), batch)
    assert loss.terms[0].values.item() == pytest.approx(-6 * math.exp(-1))


def test_token_advantages_pick_windows_by_token() -> None:
    """rho = e^-2 for the sequence: the first token is imitated, the second fades; loss 1*1 - e^-2 *
    2.
    """
    batch = PolicyBatch(
        mask=torch.ones(1, 2),
        sampling_logps=torch.tensor([[0.0, -1.0]]),
        advantages=torch.tensor([[1.0, -1.0]]),
    )
    loss = Topr()(PolicyOutputs(torch.tensor([[-1.0, -2.0]])), batch)
    assert loss.terms[0].values.item() == pytest.approx(1 - 2 * math.exp(-2))


def averages(outputs: PolicyOutputs, batch: PolicyBatch) -> dict[str, float]:
    """The metrics that something counts in, divided."""
    sums = sum_metrics(Topr()(outputs, batch).metrics)
    return {name: (s[0] / s[1]).item() for name, s in sums.items() if s[1] > 0}


def test_metrics_hold_the_log_ratios_by_sign_and_the_weights_by_length() -> None:
    """Negatives of 7.9: log-ratios -3.001 and 1, weights e^-3 = .0497 and 1; the first is given
    five tokens, the second three, so that they fall into the bins (4, 8] and (2, 4].
    """
    logps = torch.full((2, 5), -2.0)
    mu = logps.clone()
    mu[0, 0] += 3.001
    mu[1, 0] -= 1.0
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    batch = PolicyBatch(mask=mask, sampling_logps=mu, advantages=torch.tensor([-1.0, -1.0]))
    found = averages(PolicyOutputs(logps), batch)
    bins = {name: value for name, value in found.items() if "/[" in name and value}
    assert bins == {"log_ratio/negatives/[-5,-3)": 0.5, "log_ratio/negatives/[1,2)": 0.5}
    lengths = {name: value for name, value in found.items() if "/length/" in name}
    assert lengths == pytest.approx(
        {
            "alpha/negatives/length/4": 1.0,
            "alpha/negatives/length/8": math.exp(-3.001),
            "alpha/negatives_alive/length/4": 1.0,
            "alpha/negatives_alive/length/8": 0.0,
        }
    )


def test_metrics_say_whether_negatives_still_teach() -> None:
    """7.9: alphas of the negatives .049787 (dead) and 1; weights 1 + 1 of 3.049787 are positive. Of
    the windows only that of the third row, a negative with rho above 1, cuts.
    """
    outputs, batch = reference_batch(3)
    found = averages(outputs, batch)
    distributions = {name for name in found if "/[" in name or "/length/" in name}
    assert {name: found[name] for name in found.keys() - distributions} == pytest.approx(
        {
            "alpha/negatives": (0.049787 + 1) / 2,
            "alpha/negatives_alive": 0.5,
            "effective_positive_share": 2 / 3.049787,
            "logps": -8.5,
            "log_ratio": (-2 - 3 + 1 + 0.5) / 4,
            "kl/sampler": (2 + 3 - 1 - 0.5) / 4,
            "ratio/mean": (0.135335 + 0.049787 + 2.718282 + 1.648721) / 4,
            "ratio/sequence_max": (0.135335 + 0.049787 + 2.718282 + 1.648721) / 4,
            "clip_share/low": 0.0,
            "clip_share/high": 0.25,
        },
        abs=1e-6,
    )


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="positive is the window"):
        Topr(positive=(2.0, 1.0))
    with pytest.raises(ValueError, match="negative is the window"):
        Topr(negative=(-1.0, 1.0))
