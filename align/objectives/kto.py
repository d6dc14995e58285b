"""KTO: completions judged wanted or not one by one, without pairs (ALGORITHMS 3.1, 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from align.ops.batch import (
    LossOutput,
    PolicyBatch,
    PolicyOutputs,
    Term,
    require,
    trained_tokens,
)
from align.ops.logps import log_ratios, sum_tokens


@dataclass(frozen=True)
class Kto:
    """L = mean of w_D (1 - sigma(beta (u - z0))) of desirable and w_U (1 - sigma(beta (z0 - u))) of
    undesirable completions (arXiv:2402.01306).

    u(y) = sum_t log pi(y_t) - log ref(y_t). A completion is desirable where its score is above 0.
    z0 = max(0, mean of u over completions after the prompts of others) estimates the KL to the
    reference, over the whole step and without gradient.
    """

    beta: float = 0.1
    """Strength of the pull to the reference, > 0."""
    desirable_weight: float = 1.0
    """w_D, >= 0; keep w_D n_D / (w_U n_U) in 1 to 4/3 where the classes are uneven."""
    undesirable_weight: float = 1.0
    """w_U, >= 0."""
    baseline: Literal["mismatched", "zero"] = "mismatched"
    """Where z0 comes from; `zero` is the unpaired form of apo_zero."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be finite and above 0, not {self.beta}")
        weights = {
            "desirable_weight": self.desirable_weight,
            "undesirable_weight": self.undesirable_weight,
        }
        for name, value in weights.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, not {value}")

    @property
    def needs(self) -> frozenset[str]:
        """Without z0 no mismatched completions are forwarded."""
        both = frozenset({"scores", "ref_logps"})
        return both | {"mismatched"} if self.baseline == "mismatched" else both

    @property
    def scope(self) -> str:
        """z0 is one number for the step."""
        return "global_batch" if self.baseline == "mismatched" else "local"

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per completion; metrics under the names of pairs, each over its own class."""
        mask = trained_tokens(batch, outputs)
        scores = require(batch.scores, "scores")
        u = sum_tokens(log_ratios(outputs.logps, require(batch.ref_logps, "ref_logps"), mask), mask)
        z0 = self._baseline(batch, u)
        is_wanted, is_trained = scores > 0, mask.any(-1)
        # 1 - sigma(x) = sigma(-x)
        losses = torch.where(
            is_wanted,
            self.desirable_weight * torch.sigmoid(self.beta * (z0 - u)),
            self.undesirable_weight * torch.sigmoid(self.beta * (u - z0)),
        )
        rewards, logps = self.beta * u.detach(), sum_tokens(outputs.logps.detach(), mask)
        metrics = {"z0": torch.where(is_trained, z0, math.nan)}
        for side, is_side in (("chosen", is_wanted), ("rejected", ~is_wanted)):
            for name, values in (("rewards", rewards), ("logps", logps)):
                metrics[f"{name}/{side}"] = torch.where(is_side & is_trained, values, math.nan)
        return LossOutput((Term(torch.where(is_trained, losses, 0.0), "sequence"),), metrics)

    def _baseline(self, batch: PolicyBatch, u: Float[Tensor, " N"]) -> Float[Tensor, ""]:
        """z0, clamped after the mean."""
        if self.baseline == "zero":
            return u.new_zeros(())
        if batch.step is None:
            raise ValueError(
                "kto reads z0 from completions after the prompts of others, which are not in the "
                "batch: give batch.step with `mismatched`, or set baseline: zero"
            )
        mismatched = require(batch.step.mismatched, "step.mismatched").detach()
        if len(mismatched) == 0:
            raise ValueError(
                "kto's z0 needs completions of at least two prompts in a step: raise "
                "global_batch_size, or set baseline: zero"
            )
        return mismatched.mean().clamp(min=0)
