"""The two sides of each pair of a batch: what every pair objective reads, counts and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from align.ops.batch import PolicyBatch, Term, require
from align.ops.logps import average_tokens, sum_tokens

NllNorm = Literal["token_mean", "sequence_mean", "sequence_sum"]
"""Of the chosen side's negative log-likelihood: over all chosen tokens of the step, the mean over
pairs of each one's token mean, or the mean over pairs of its sum (ALGORITHMS 3.2).
"""


@dataclass(frozen=True)
class PairRows:
    """Where the sides of a batch's pairs are."""

    chosen: Int[Tensor, " P"]
    """Row indices."""
    rejected: Int[Tensor, " P"]
    is_whole: Bool[Tensor, " P"]
    """Both sides have a trained token; the others count nowhere."""

    @classmethod
    def of(cls, batch: PolicyBatch, mask: Bool[Tensor, "N T"]) -> PairRows:
        """Raises ValueError where the batch was built without pairs."""
        chosen, rejected = require(batch.chosen, "chosen"), require(batch.rejected, "rejected")
        is_trained = mask.any(-1)
        return cls(chosen, rejected, is_trained[chosen] & is_trained[rejected])

    def sides(
        self, values: Float[Tensor, "N *rest"]
    ) -> tuple[Float[Tensor, "P *rest"], Float[Tensor, "P *rest"]]:
        """The values of the chosen and of the rejected rows."""
        return values[self.chosen], values[self.rejected]

    def term(self, losses: Float[Tensor, " P"]) -> Term:
        """The losses as a mean over the pairs that count."""
        return Term(torch.where(self.is_whole, losses, 0.0), "pair")

    def nll(
        self,
        logps: Float[Tensor, "N T"],
        mask: Bool[Tensor, "N T"],
        norm: NllNorm,
        weight: float,
    ) -> Term:
        """weight * the negative log-likelihood of the chosen sides, normalised as `norm` says."""
        if norm == "token_mean":
            is_counted = mask[self.chosen] & self.is_whole[:, None]
            return Term(torch.where(is_counted, -logps[self.chosen], 0.0), "chosen_token", weight)
        per_row = (
            average_tokens(logps, mask) if norm == "sequence_mean" else sum_tokens(logps, mask)
        )
        return Term(self.term(-per_row[self.chosen]).values, "pair", weight)

    def describe(
        self, rewards: Float[Tensor, " N"], logps: Float[Tensor, " N"]
    ) -> dict[str, Float[Tensor, " P"]]:
        """The metrics that users know, from each row's implicit reward and summed log-probs."""
        reward_w, reward_l = self.sides(rewards.detach())
        logps_w, logps_l = self.sides(logps.detach())
        metrics = {
            "rewards/chosen": reward_w,
            "rewards/rejected": reward_l,
            "rewards/margins": reward_w - reward_l,
            "rewards/accuracies": (reward_w > reward_l).to(reward_w.dtype),
            "logps/chosen": logps_w,
            "logps/rejected": logps_l,
        }
        return {
            name: torch.where(self.is_whole, values, math.nan) for name, values in metrics.items()
        }
