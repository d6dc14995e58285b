"""Log-probabilities of tokens and sequences and their ratios, in float32 (ALGORITHMS 0.3).

Masks are applied with `torch.where`, never by multiplication: 0 * inf is NaN.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values in float32, or as they are where that is more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def token_logps(
    logits: Float[Tensor, "N T V"],
    ids: Int[Tensor, "N T"],
    temperature: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "N T"]:
    """log softmax(logits / temperature) at `ids`.

    The logits at a place score the token *named at that place*: the caller has shifted them by one
    already. `temperature` (> 0) is each row's own, as it was sampled; None is 1. Padding needs
    valid ids (any).

        >>> token_logps(torch.tensor([[[0.0, math.log(3.0)]]]), torch.tensor([[1]])).exp()
        tensor([[0.7500]])
    """
    logits = at_least_float32(logits)
    if temperature is not None:
        logits = logits / temperature.to(logits.dtype)[:, None, None]
    chosen = logits.gather(-1, ids.long().unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(logits, dim=-1)


def sum_tokens(values: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    """Each row's sum over its masked-in tokens, 0 for a row that has none."""
    return torch.where(mask, at_least_float32(values), 0.0).sum(-1)


def average_tokens(values: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    """Each row's mean over its masked-in tokens, 0 for a row that has none."""
    return sum_tokens(values, mask) / count_tokens(mask)


def count_tokens(mask: Bool[Tensor, "N T"]) -> Int[Tensor, " N"]:
    """Masked-in tokens of each row, at least 1 so that it can be divided by."""
    return mask.sum(-1).clamp(min=1)


def log_ratios(
    logps: Float[Tensor, "N T"], others: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """log (p / q) of each token, 0 where masked out.

    The difference is taken token by token before it is summed: equal models give exactly 0.
    """
    return torch.where(mask, at_least_float32(logps) - at_least_float32(others), 0.0)


def fill_missing(
    logps: Float[Tensor, "N T"], substitutes: Float[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """The log-probs with each NaN replaced, without gradient.

    With the policy's own log-probs as substitutes a token that the engine gave no number for has
    ratio 1 (ALGORITHMS 0.3, point 9).
    """
    return torch.where(torch.isnan(logps), substitutes.detach().to(logps.dtype), logps)


def exp_clipped(
    log_ratio: Float[Tensor, "*shape"], low: float, high: float
) -> Float[Tensor, "*shape"]:
    """clip(exp(log_ratio), low, high), clipped before the exponential; 0 <= low <= high < inf.

    `min(exp(x), b)` has the same value and a NaN gradient once exp overflows (ALGORITHMS 0.3, point
    2).

        >>> exp_clipped(torch.tensor([-1e4, 0.0, 1e4]), 0.0, 1.0)
        tensor([0., 1., 1.])
    """
    if low == high:  # a constant: exact, whatever the ratio is
        return torch.full_like(log_ratio, low)
    lowest = math.log(low) if low > 0 else -math.inf
    return torch.exp(torch.clamp(log_ratio, min=lowest, max=math.log(high)))
