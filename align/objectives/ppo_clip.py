"""The clipped surrogate of PPO on stored tokens, without a value head (ALGORITHMS 8.3).

`ppo_clip` takes the ratio of each token (GRPO, Dr. GRPO, DAPO: docs/policy_gradients.md), `gspo`
the geometric mean over the sequence.

`sampling_logps` are the proximal anchor and the policy that sampled in one (bypass mode: old = mu),
so that the clip also bounds how stale a sample may be; where the engine's own numerics differ,
`train.correction` mends that part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from align.objectives.regularisers import (
    KlPenalty,
    check_entropy,
    regularise,
    regulariser_needs,
)
from align.ops.batch import (
    LossOutput,
    PolicyBatch,
    PolicyOutputs,
    token_advantages,
    trained_tokens,
)
from align.ops.corrections import correct, mask_off_policy
from align.ops.logps import sum_tokens
from align.ops.reduce import Aggregation, aggregate, check_aggregation
from align.ops.windows import (
    RatioLevel,
    at_level,
    average_at_level,
    describe_ratios,
    ratio_of,
    sampler_log_ratios,
)


def clipped_surrogate(
    ratio: Float[Tensor, "N T"],
    advantages: Float[Tensor, "N U"],
    low: float,
    high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "N T"]:
    """g = min(r A, clip(r, 1 - low, 1 + high) A), and where A < 0 at least dual_clip * A.

    arXiv:1707.06347 eq. 7; the dual clip is eq. 5 of arXiv:1912.09729. Gradient: A r grad log pi,
    and 0 where the clip is the smaller side.

        >>> clipped_surrogate(torch.tensor([[4.0]]), torch.tensor([[-1.0]]), 0.2, 0.2, dual_clip=3)
        tensor([[-3.]])
    """
    clipped = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    if dual_clip is None:
        return clipped
    return torch.where(advantages < 0, torch.maximum(clipped, dual_clip * advantages), clipped)


@dataclass(frozen=True)
class PpoClip:
    """L = - Agg[ w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) ], r = pi / mu.

    With `ratio_level: sequence` the ratio is the product over the sequence, differentiated as a
    whole; take `aggregation: sequence_mean` for one loss a sequence (TRL's RLOO).
    """

    scope: ClassVar[str] = "local"

    clip_low: float = 0.2
    """The ratio is clipped below 1 - clip_low; 0 to 1."""
    clip_high: float = 0.2
    """And above 1 + clip_high; 0.28 is DAPO's clip-higher."""
    dual_clip: float | None = None
    """c > 1 + clip_high: where A < 0 the loss stops at c |A|; 3, or 10 in DAPO recipes. TRL's
    `delta` does the same.
    """
    off_policy_threshold: float | None = None
    """Nats a token: a sequence with A < 0 that the policy has left by more is dropped (0.5 in
    DeepSeek-V3.2's recipes).
    """
    ratio_level: RatioLevel = "token"
    """`token` (PPO, GRPO), `geometric` (GSPO) or `sequence`."""
    aggregation: Aggregation = "token_mean"
    """`token_mean` (DAPO), `sequence_mean` (GRPO), `sequence_sum`, or `constant` (Dr. GRPO)."""
    constant: float | None = None
    """Divisor of `aggregation: constant`, usually `max_new_tokens`."""
    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3}` is GRPO's."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        own = frozenset({"advantages", "sampling_logps"})
        return own | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low must lie in 0 to 1, not {self.clip_low}")
        if not 0 <= self.clip_high < math.inf:
            raise ValueError(f"clip_high must be finite and at least 0, not {self.clip_high}")
        if self.dual_clip is not None and not 1 + self.clip_high < self.dual_clip < math.inf:
            raise ValueError(
                f"dual_clip bounds the ratio itself and must lie above 1 + clip_high ="
                f" {1 + self.clip_high:g}, not at {self.dual_clip}"
            )
        if self.off_policy_threshold is not None and not 0 < self.off_policy_threshold < math.inf:
            raise ValueError(
                "off_policy_threshold must be finite and above 0 nats a token, not"
                f" {self.off_policy_threshold}"
            )
        check_aggregation(self.aggregation, self.constant)
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term, and the regularisers. A NaN in `sampling_logps` counts as ratio 1 at that
        token.

        `clip_share/low` and `clip_share/high` are the shares of ratios without a gradient on either
        side, `dropped_off_policy` that of sequences with A < 0 left out.
        """
        mask = trained_tokens(batch, outputs)
        advantages = token_advantages(batch)
        ratios = sampler_log_ratios(outputs, batch, mask)
        ratio = ratio_of(at_level(ratios, mask, self.ratio_level))
        gains = clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high, self.dual_clip)
        metrics = describe_ratios(ratios, mask, self.ratio_level)
        if self.off_policy_threshold is not None:
            kept = mask_off_policy(ratios, mask, advantages, self.off_policy_threshold)
            gains = torch.where(kept, gains, 0.0)
            dropped = (mask & ~kept).any(-1).to(torch.float32)
            metrics["dropped_off_policy"] = torch.where(mask.any(-1), dropped, math.nan)
        losses = correct(-gains, batch, mask)

        is_low = (ratio < 1 - self.clip_low) & (advantages < 0)
        is_high = (ratio > 1 + self.clip_high) & (advantages > 0)
        for side, clipped in (("low", is_low), ("high", is_high)):
            metrics[f"clip_share/{side}"] = average_at_level(clipped, mask, self.ratio_level)
        logps = sum_tokens(outputs.logps.detach(), mask)
        metrics["logps"] = torch.where(mask.any(-1), logps, math.nan)
        extra = regularise(
            outputs, batch, mask, self.kl, self.entropy, self.aggregation, self.constant
        )
        return LossOutput(
            (aggregate(losses, mask, self.aggregation, constant=self.constant), *extra.terms),
            metrics | dict(extra.metrics),
        )


@dataclass(frozen=True)
class Gspo:
    """Group sequence policy optimization (arXiv:2507.18071): the clip on s = (pi(y) / mu(y))^(1/n).

    L = - mean_i min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i), with the gradient through
    s_i: the same as verl's token form where A is one number a sequence.
    """

    scope: ClassVar[str] = "local"

    clip_low: float = 3e-4
    """The ratio is clipped below 1 - clip_low; 0 to 1."""
    clip_high: float = 4e-4
    """And above 1 + clip_high."""
    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        return self._as_ppo_clip().needs

    def __post_init__(self) -> None:
        self._as_ppo_clip()  # refuses what it would

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """As `PpoClip`."""
        return self._as_ppo_clip()(outputs, batch)

    def _as_ppo_clip(self) -> PpoClip:
        return PpoClip(
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            ratio_level="geometric",
            aggregation="sequence_mean",
            kl=self.kl,
            entropy=self.entropy,
        )
