"""Importance ratios on stored tokens, and weights by a window for each sign (ALGORITHMS 7.2)."""

from __future__ import annotations

import math
from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.batch import PolicyBatch, PolicyOutputs, Ratio, require
from align.ops.logps import average_tokens, exp_clipped, fill_missing, log_ratios, sum_tokens

RatioLevel = Literal["sequence", "token", "geometric"]
Window = tuple[float, float]
"""(a, b): the ratio pi/mu is clipped to [a, b]; a == b is that constant weight."""

LARGEST_LOG_RATIO = 20.0
"""|log r| beyond this is cut before an exponential without a window of its own (ALGORITHMS 0.3)."""


def check_window(window: Window, name: str) -> None:
    """Raises ValueError unless 0 <= low <= high < inf."""
    low, high = window
    if not 0 <= low <= high < math.inf:
        raise ValueError(
            f"{name} is the window [low, high] of a ratio and needs 0 <= low <= high < inf,"
            f" not {list(window)}"
        )


def sampler_log_ratios(
    outputs: PolicyOutputs, batch: PolicyBatch, mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """log pi - log mu of each token with the gradient of log pi; 0 where masked out.

    A NaN in `sampling_logps` counts as ratio 1 at that token.
    """
    sampled = fill_missing(require(batch.sampling_logps, "sampling_logps"), outputs.logps)
    return log_ratios(outputs.logps, sampled, mask)


def at_level(
    log_ratios: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], level: RatioLevel
) -> Float[Tensor, "N T"]:
    """The log-ratio that each token is weighed by; keeps the gradient.

    Its own (`token`), the sum over the sequence (`sequence`: a product of ratios) or its mean
    (`geometric`). `log_ratios` is 0 where masked out.
    """
    match level:
        case "token":
            return log_ratios
        case "sequence":
            return sum_tokens(log_ratios, mask)[:, None].expand_as(log_ratios)
        case "geometric":
            return average_tokens(log_ratios, mask)[:, None].expand_as(log_ratios)
        case unknown:
            assert_never(unknown)


def ratio_of(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(log_ratio), which is cut to [-20, 20] first and has no gradient beyond."""
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def weigh_tokens(
    log_ratios: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    advantages: Float[Tensor, "N U"],
    *,
    positive: Window = (1.0, 1.0),
    negative: Window = (0.0, 1.0),
    level: RatioLevel = "sequence",
) -> Float[Tensor, "N T"]:
    """clip(rho, a, b) of every token, without gradient; [a, b] follows the sign of the advantage.

    The window is `positive` where A >= 0, else `negative`.
    rho is the product of the token ratios over the sequence (`sequence`: the estimator of the
    paper), its geometric mean (`geometric`), or the token's own ratio (`token`). `advantages` is
    (N, 1) or (N, T); `log_ratios` is 0 where masked out.
    """
    leveled = at_level(log_ratios.detach(), mask, level)
    return torch.where(
        advantages >= 0, exp_clipped(leveled, *positive), exp_clipped(leveled, *negative)
    )


def outside(
    log_ratio: Float[Tensor, "N T"], window: Window
) -> tuple[Bool[Tensor, "N T"], Bool[Tensor, "N T"]]:
    """Where the ratio is below the window and where above; nowhere for a constant weight."""
    low, high = window
    if low == high:
        nowhere = torch.zeros_like(log_ratio, dtype=torch.bool)
        return nowhere, nowhere
    lowest = math.log(low) if low > 0 else -math.inf
    return log_ratio < lowest, log_ratio > math.log(high)


def average_at_level(
    values: Float[Tensor, "N T"] | Bool[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    level: RatioLevel,
) -> Tensor | Ratio:
    """A metric's mean over what has a ratio of its own: tokens (`token`), else sequences."""
    numbers = values.to(torch.float32)
    if level == "token":
        return Ratio(sum_tokens(numbers, mask), mask.sum(-1))
    return torch.where(mask.any(-1), average_tokens(numbers, mask), math.nan)


def describe_ratios(
    log_ratios: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], level: RatioLevel
) -> dict[str, Tensor | Ratio]:
    """Detached metrics of the ratio to the sampler.

    `log_ratio` is log pi/mu of each sequence and `kl/sampler` its negative, whose mean over stored
    samples is KL(mu || pi) in nats a sequence; `ratio/mean` the mean ratio at the level, and
    `ratio/sequence_max` the largest ratio at the level within each sequence.
    """
    log_ratios = log_ratios.detach()
    ratios = ratio_of(at_level(log_ratios, mask, level))
    is_trained = mask.any(-1)
    largest = torch.where(mask, ratios, 0.0).amax(-1)
    log_ratio = torch.where(is_trained, sum_tokens(log_ratios, mask), math.nan)
    return {
        "log_ratio": log_ratio,
        "kl/sampler": -log_ratio,
        "ratio/mean": average_at_level(ratios, mask, level),
        "ratio/sequence_max": torch.where(is_trained, largest, math.nan),
    }
