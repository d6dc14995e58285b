"""Importance weights by sign and level (ALGORITHMS 7.2, 7.7, 8.3)."""

from __future__ import annotations

import math

import pytest
import torch

from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import sum_metrics
from align.ops.windows import (
    RatioLevel,
    Window,
    at_level,
    check_window,
    describe_ratios,
    outside,
    ratio_of,
    sampler_log_ratios,
    weigh_tokens,
)
from tests.objectives.metrics import per_item


@pytest.mark.parametrize(
    ("level", "expected"), [("sequence", 0.049787), ("geometric", 0.970446), ("token", 0.970446)]
)
def test_levels_disagree_on_long_negatives(level: RatioLevel, expected: float) -> None:
    """ALGORITHMS 7.7: log rho = -3 over 100 equal tokens is e^-3 as a product, e^-.03 a token."""
    ratios = torch.full((1, 100), -0.03, dtype=torch.float64)
    weights = weigh_tokens(ratios, torch.ones(1, 100).bool(), -torch.ones(1, 1), level=level)
    assert weights[0, 0].item() == pytest.approx(expected, abs=1e-6)
    assert weights.shape == (1, 100)


def test_geometric_level_of_the_gspo_vector() -> None:
    """ALGORITHMS 8.3: [.1, -.2, .3, 0] has geometric mean e^.05 = 1.051271 and product e^.2 =
    1.221403.
    """
    ratios = torch.tensor([[0.1, -0.2, 0.3, 0.0]], dtype=torch.float64)
    mask, up = torch.ones(1, 4).bool(), torch.ones(1, 1)
    wide: Window = (0.0, 10.0)
    assert weigh_tokens(ratios, mask, up, positive=wide, level="geometric")[0, 0].item() == (
        pytest.approx(1.051271, abs=1e-6)
    )
    assert weigh_tokens(ratios, mask, up, positive=wide)[0, 0].item() == (
        pytest.approx(1.221403, abs=1e-6)
    )


def test_token_level_of_the_cispo_vector() -> None:
    """ALGORITHMS 8.3: cap 1.2 on log-ratios [.1, -.2, .5] gives [1.105171, .818731, 1.2]."""
    ratios = torch.tensor([[0.1, -0.2, 0.5]], dtype=torch.float64)
    found = weigh_tokens(
        ratios, torch.ones(1, 3).bool(), torch.ones(1, 1), positive=(0.0, 1.2), level="token"
    )
    assert found[0].tolist() == pytest.approx([1.105171, 0.818731, 1.2], abs=1e-6)


def test_the_sign_of_a_token_advantage_picks_its_window() -> None:
    """A = (+1, 0, -1) at rho = e^-3: 1, 1, e^-3."""
    ratios = torch.full((1, 3), -1.0, dtype=torch.float64)
    found = weigh_tokens(ratios, torch.ones(1, 3).bool(), torch.tensor([[1.0, 0.0, -1.0]]))
    assert found[0].tolist() == pytest.approx([1, 1, 0.049787], abs=1e-6)


def test_weights_carry_no_gradient() -> None:
    ratios = torch.zeros(1, 2, requires_grad=True)
    assert not weigh_tokens(ratios, torch.ones(1, 2).bool(), -torch.ones(1, 1)).requires_grad


@pytest.mark.parametrize("window", [(-0.1, 1.0), (1.0, 0.5), (0.0, float("inf"))])
def test_impossible_windows_are_refused(window: Window) -> None:
    with pytest.raises(ValueError, match="0 <= low <= high < inf"):
        check_window(window, "negative")


def test_levels_keep_the_gradient_and_skip_padding() -> None:
    """Of [1, 3 | padding]: sum 4 with gradient 1 a token, mean 2 with gradient 1/2."""
    ratios = torch.tensor([[1.0, 3.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    levels: dict[RatioLevel, tuple[float, float]] = {
        "sequence": (4.0, 1.0),
        "geometric": (2.0, 0.5),
    }
    for level, (value, slope) in levels.items():
        leveled = at_level(ratios, mask, level)
        assert leveled.tolist() == [[value] * 3]
        (grad,) = torch.autograd.grad(leveled[0, 0], ratios)
        assert grad.tolist() == [[slope, slope, 0.0]]


def test_ratio_is_cut_before_the_exponential() -> None:
    """e^20 and e^-20 without a gradient, instead of inf."""
    log_ratio = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    ratio = ratio_of(log_ratio)
    ratio.sum().backward()
    assert ratio.tolist() == pytest.approx([math.exp(-20), 1, math.exp(20)], rel=1e-6)
    assert log_ratio.grad is not None and log_ratio.grad.tolist() == [0, 1, 0]


def test_ratios_to_the_sampler_skip_padding_and_missing_log_probs() -> None:
    """log pi - log mu = 1, NaN of the engine, padding: [1, 0, 0], the second with gradient."""
    logps = torch.tensor([[-1.0, -3.0, -9.0]], requires_grad=True)
    batch = PolicyBatch(sampling_logps=torch.tensor([[-2.0, math.nan, -4.0]]))
    mask = torch.tensor([[True, True, False]])
    found = sampler_log_ratios(PolicyOutputs(logps), batch, mask)
    assert found.tolist() == [[1.0, 0.0, 0.0]]
    found.sum().backward()
    assert logps.grad is not None and logps.grad.tolist() == [[1.0, 1.0, 0.0]]


def test_outside_a_window_on_either_side() -> None:
    """Ratios 1/2, 1, 2 and [.8, 1.5]: one below, one above; a constant weight clips nothing."""
    log_ratio = torch.tensor([[0.5, 1.0, 2.0]]).log()
    low, high = outside(log_ratio, (0.8, 1.5))
    assert low.tolist() == [[True, False, False]] and high.tolist() == [[False, False, True]]
    assert not outside(log_ratio, (1.0, 1.0))[0].any() and not outside(log_ratio, (0, 9))[0].any()


def test_ratio_metrics_by_level() -> None:
    """Ratios (1/2, 2 | padding) and (4,): token mean 6.5 / 3; sequence products 1 and 4."""
    ratios = torch.tensor([[0.5, 2.0], [4.0, 1.0]]).double().log()
    mask = torch.tensor([[True, True], [True, False]])
    sums = sum_metrics(describe_ratios(ratios, mask, "token"))
    tokens = {name: (pair[0] / pair[1]).item() for name, pair in sums.items()}
    assert tokens == pytest.approx(
        {
            "log_ratio": math.log(4) / 2,
            "kl/sampler": -math.log(4) / 2,
            "ratio/mean": 6.5 / 3,
            "ratio/sequence_max": 3.0,
        }
    )
    whole = describe_ratios(ratios, mask, "sequence")
    assert per_item(whole, "ratio/mean") == pytest.approx([1.0, 4.0])
    assert per_item(whole, "ratio/sequence_max") == pytest.approx([1.0, 4.0])
