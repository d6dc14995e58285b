"""REDI: reinforcement distillation from right and wrong teacher traces (ALGORITHMS 11.9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, trained_tokens
from align.ops.logps import average_tokens, sum_tokens
from align.ops.pairs import PairRows


@dataclass(frozen=True)
class Redi:
    """L = - chosen_weight Abar_w + rejected_weight Abar_l, Abar the mean log-prob a token
    (arXiv:2505.24850).

    Linear: nothing stops the rejected side from falling, so watch `logps/chosen`, which falls too
    where the pull apart is too strong.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    scope: ClassVar[str] = "local"

    chosen_weight: float = 1.0
    """>= 0."""
    rejected_weight: float = 0.8
    """>= 0; at the chosen side's weight training is unstable, near 0 it is fine-tuning."""

    def __post_init__(self) -> None:
        weights = {"chosen_weight": self.chosen_weight, "rejected_weight": self.rejected_weight}
        for name, value in weights.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, not {value}")

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per pair; the implicit reward is Abar."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        means = average_tokens(outputs.logps, mask)
        mean_w, mean_l = pairs.sides(means)
        return LossOutput(
            (pairs.term(self.rejected_weight * mean_l - self.chosen_weight * mean_w),),
            pairs.describe(means, sum_tokens(outputs.logps, mask)),
        )
