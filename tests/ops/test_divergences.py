"""f' of the f-divergences at the standard pair's log-ratios (ALGORITHMS 3.1)."""

from __future__ import annotations

import math

import pytest
import torch

from align.ops.divergences import Divergence, derivative


@pytest.mark.parametrize(
    ("divergence", "at_one", "at_minus_half"),
    [
        ("reverse_kl", 1.0, -0.5),
        ("forward_kl", 0.632121, -0.648721),
        ("js", 0.379885, -0.280930),
        ("alpha", 0.786939, -0.568051),
    ],
)
def test_vectors(divergence: Divergence, at_one: float, at_minus_half: float) -> None:
    """u = 1 and -.5; at u = 0 each is 0."""
    values = derivative(divergence, torch.tensor([1.0, -0.5, 0.0]).double(), 0.5)
    assert values.tolist() == pytest.approx([at_one, at_minus_half, 0.0], abs=1e-6)


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_extreme_ratios_stay_finite_in_float32(divergence: Divergence) -> None:
    """At u = -1e4 forward KL is -e^80, and nothing flows through the clamp."""
    u = torch.tensor([-1e4, -90.0, 1e4], requires_grad=True)
    values = derivative(divergence, u, 0.5)
    values.sum().backward()
    assert bool(values.isfinite().all())
    assert u.grad is not None and bool(u.grad.isfinite().all())
    if divergence == "forward_kl":
        assert values[0].item() == pytest.approx(-math.exp(80), rel=1e-5)


def test_alpha_lies_between_the_two_directions_of_kl() -> None:
    """At u = 1: forward KL .632121, alpha near 0 close to it, near 1 close to reverse KL 1."""
    u = torch.tensor([1.0]).double()
    assert derivative("alpha", u, 1e-6).item() == pytest.approx(0.632121, abs=1e-5)
    assert derivative("alpha", u, 1 - 1e-6).item() == pytest.approx(1.0, abs=1e-5)
