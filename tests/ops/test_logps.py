"""Hand values, masks and extremes of the log-probability functions."""

from __future__ import annotations

import math

import pytest
import torch

from align.ops.logps import (
    average_tokens,
    exp_clipped,
    fill_missing,
    log_ratios,
    sum_tokens,
    token_logps,
)


def test_token_logps_hand_values() -> None:
    """softmax(0, ln 3) = (1/4, 3/4); at temperature 2: (1, sqrt 3) / (1 + sqrt 3)."""
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(3), 0.0]]], dtype=torch.float64)
    logits = logits.repeat(2, 1, 1)
    ids = torch.tensor([[1, 1], [1, 1]])
    found = token_logps(logits, ids, torch.tensor([1.0, 2.0])).exp()
    cold = 1 + math.sqrt(3)
    torch.testing.assert_close(
        found,
        torch.tensor([[0.75, 0.25], [math.sqrt(3) / cold, 1 / cold]], dtype=torch.float64),
    )
    torch.testing.assert_close(token_logps(logits, ids)[0].exp(), found[0])


def test_token_logps_of_bfloat16_are_computed_in_float32() -> None:
    """ln 2 from two equal bfloat16 logits would be 0.6914 if it were rounded to bfloat16."""
    found = token_logps(torch.full((1, 1, 2), 20.0, dtype=torch.bfloat16), torch.zeros(1, 1).long())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-math.log(2), abs=2e-6)


def test_token_logps_of_huge_logits_stay_finite() -> None:
    """The difference of 1e5 is the log-prob of the unlikely token, 0 that of the likely one."""
    logits = torch.tensor([[[1e5, 0.0], [1e5, 0.0]]], requires_grad=True)
    found = token_logps(logits, torch.tensor([[0, 1]]))
    assert found.tolist() == [[0.0, -1e5]]
    found.sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_sums_and_means_skip_masked_tokens_even_infinite_ones() -> None:
    """Row 1 sums to -3 with mean -1.5; row 2 has no token: 0, not 0/0. inf and NaN stand where
    masked.
    """
    values = torch.tensor([[-1.0, math.inf, -2.0], [math.nan, -5.0, -5.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert sum_tokens(values, mask).tolist() == [-3.0, 0.0]
    assert average_tokens(values, mask).tolist() == [-1.5, 0.0]
    sum_tokens(values, mask).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_log_ratios_of_equal_models_are_exactly_zero() -> None:
    logps = -torch.rand(3, 5) * 20
    assert log_ratios(logps, logps.clone(), torch.ones(3, 5).bool()).abs().max() == 0


def test_fill_missing_gives_ratio_one_where_the_engine_gave_nothing() -> None:
    policy = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    filled = fill_missing(torch.tensor([[math.nan, -2.5]]), policy)
    assert filled.tolist() == [[-1.0, -2.5]]
    assert not filled.requires_grad


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0, 1.0]),
        (0.8, 1.2, [0.8, 0.8, 1.0, 1.2]),
        (1.0, 1.0, [1.0, 1.0, 1.0, 1.0]),
        (0.0, 0.0, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_exp_clipped_at_extremes(low: float, high: float, expected: list[float]) -> None:
    """clip(exp(x), low, high) for x = -1e4, ln .5, 0, 1e4; the gradient is finite."""
    x = torch.tensor([-1e4, math.log(0.5), 0.0, 1e4], requires_grad=True)
    found = exp_clipped(x, low, high)
    assert found.tolist() == pytest.approx(expected)
    if found.requires_grad:
        found.sum().backward()
        assert x.grad is not None and bool(x.grad.isfinite().all())
