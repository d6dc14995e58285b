"""What a window objective logs about its weights: whether negatives still teach, and how far the
policy has left its sampler (ALGORITHMS 7.7).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.batch import Ratio
from align.ops.drift import by_length, histogram
from align.ops.logps import average_tokens, sum_tokens

ALIVE = 0.05
"""A negative whose weight is below this no longer teaches."""


def describe_weights(
    alpha: Float[Tensor, "N T"], advantages: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]
) -> dict[str, Tensor | Ratio]:
    """Whether negatives still teach: their mean weight, the share alive, the positives' share."""
    is_negative = mask & (advantages < 0)
    has_negative = is_negative.any(-1)
    mean_alpha = average_tokens(alpha, is_negative)
    pull = average_tokens(alpha * advantages.abs(), mask)
    positive_pull = average_tokens(torch.where(advantages > 0, alpha * advantages, 0.0), mask)
    return {
        "alpha/negatives": torch.where(has_negative, mean_alpha, math.nan),
        "alpha/negatives_alive": torch.where(
            has_negative, (mean_alpha > ALIVE).to(alpha.dtype), math.nan
        ),
        "effective_positive_share": Ratio(positive_pull, pull),
    }


def describe_drift(
    ratios: Float[Tensor, "N T"],
    alpha: Float[Tensor, "N T"],
    advantages: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
) -> dict[str, Tensor | Ratio]:
    """The histogram of log pi/mu by the sign of the advantage, and negatives' weight by length."""
    log_ratio = sum_tokens(ratios, mask)
    is_negative = mask & (advantages < 0)
    has_negative = is_negative.any(-1)
    has_positive = (mask & (advantages > 0)).any(-1)
    found: dict[str, Tensor | Ratio] = dict(
        histogram(log_ratio, has_positive, "log_ratio/positives")
    )
    found |= histogram(log_ratio, has_negative, "log_ratio/negatives")
    mean_alpha = average_tokens(alpha, is_negative)
    lengths = mask.sum(-1).to(torch.float32)
    is_alive = (mean_alpha > ALIVE).to(torch.float32)
    found |= by_length(mean_alpha, lengths, has_negative, "alpha/negatives")
    found |= by_length(is_alive, lengths, has_negative, "alpha/negatives_alive")
    return found
