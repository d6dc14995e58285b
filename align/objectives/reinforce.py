"""REINFORCE on stored tokens, without correction for where they came from (ALGORITHMS 8.1, 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

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
    Ratio,
    token_advantages,
    trained_tokens,
)
from align.ops.corrections import correct
from align.ops.logps import sum_tokens
from align.ops.reduce import Aggregation, aggregate, check_aggregation


@dataclass(frozen=True)
class Reinforce:
    """L = - mean_i A_i sum_t log pi(y_it).

    Right while the samples are the policy's own; on older samples negative advantages make it
    unbounded below, which is what `topr` is for.
    """

    scope: ClassVar[str] = "local"

    aggregation: Aggregation = "sequence_sum"
    """`sequence_sum` (the estimator), `token_mean`, `sequence_mean`, or `constant`."""
    constant: float | None = None
    """Divisor of `aggregation: constant`, usually `max_new_tokens`."""
    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages"}) | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        check_aggregation(self.aggregation, self.constant)
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term, and the regularisers; metrics per sequence."""
        mask = trained_tokens(batch, outputs)
        losses = correct(-token_advantages(batch) * outputs.logps, batch, mask)
        logps = sum_tokens(outputs.logps.detach(), mask)
        metrics: dict[str, torch.Tensor | Ratio] = {
            "logps": torch.where(mask.any(-1), logps, math.nan)
        }
        extra = regularise(
            outputs, batch, mask, self.kl, self.entropy, self.aggregation, self.constant
        )
        return LossOutput(
            (aggregate(losses, mask, self.aggregation, constant=self.constant), *extra.terms),
            metrics | dict(extra.metrics),
        )
