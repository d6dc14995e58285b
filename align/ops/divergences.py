"""f'(t) of the f-divergences at t = pi / ref, from u = log t (f-DPO, arXiv:2309.16240)."""

from __future__ import annotations

import math
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

LARGEST_EXPONENT = 80.0
"""exp of it is 5.5e34: what comes after stays inside float32 (ALGORITHMS 3.1)."""


def derivative(
    divergence: Divergence, u: Float[Tensor, "*shape"], alpha: float
) -> Float[Tensor, "*shape"]:
    """f'(e^u); `alpha` in (0, 1) is the order of the alpha divergence. 0 at u = 0 for each."""
    match divergence:
        case "reverse_kl":  # log t, the penalty of DPO
            return u
        case "forward_kl":  # 1 - 1 / t
            return -torch.expm1(torch.clamp(-u, max=LARGEST_EXPONENT))
        case "js":  # log(2 t / (1 + t))
            return math.log(2) + logsigmoid(u)
        case "alpha":  # (t^(alpha - 1) - 1) / (alpha - 1)
            exponent = torch.clamp((alpha - 1) * u, max=LARGEST_EXPONENT)
            return torch.expm1(exponent) / (alpha - 1)
        case unknown:
            assert_never(unknown)
