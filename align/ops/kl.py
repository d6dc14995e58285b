"""Estimators of KL(pi || ref) a token, from tokens that pi drew (ALGORITHMS 9.1)."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.logps import log_ratios

Estimator = Literal["k1", "k2", "k3", "k3+"]

LARGEST_DIFFERENCE = 20.0
"""|log ref - log pi| is cut to this before k3's exponential (as verl does)."""
LARGEST_K3 = 10.0
"""k3 is cut to this, and has no gradient beyond; k2 and k3+ keep theirs."""


def estimate_kl(
    logps: Float[Tensor, "N T"],
    ref_logps: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    estimator: Estimator,
) -> Float[Tensor, "N T"]:
    """Of each token, with gradient; 0 where masked out. d = log ref - log pi.

    k1 = -d (unbiased, noisy); k2 = d^2 / 2 (a biased value whose gradient is that of KL(pi ||
    ref)); k3 = e^d - d - 1 (unbiased and never negative, with the gradient of the forward-type
    penalty E[(1 - e^d) grad log pi]); k3+ has the value of k3 and the gradient of k2. All of it a
    token given its prefix: how the policy's tokens lead to later ones carries no gradient.
    """
    difference = -log_ratios(logps, ref_logps, mask)
    match estimator:
        case "k1":
            return -difference
        case "k2":
            return difference**2 / 2
        case "k3":
            return _k3(difference)
        case "k3+":
            k2 = difference**2 / 2
            return _k3(difference.detach()) + (k2 - k2.detach())
        case unknown:
            assert_never(unknown)


def _k3(difference: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    cut = difference.clamp(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
    # expm1: e^d - 1 - d of a small d would be lost in the rounding of e^d
    return (torch.expm1(cut) - cut).clamp(max=LARGEST_K3)
