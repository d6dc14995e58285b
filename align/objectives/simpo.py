"""SimPO: the margin of mean log-probs, without a reference (ALGORITHMS 3.1, 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, trained_tokens
from align.ops.logps import average_tokens, sum_tokens
from align.ops.pairs import PairRows


@dataclass(frozen=True)
class Simpo:
    """L = - logsig( beta (Abar_w - Abar_l) - gamma ), Abar the mean log-prob a token
    (arXiv:2405.14734, eq. 6).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    scope: ClassVar[str] = "local"

    beta: float = 2.0
    """Scale of the margin, > 0; the authors use 2 to 10."""
    gamma: float | None = None
    """Target margin, as the paper writes it. Give this or `gamma_beta_ratio`."""
    gamma_beta_ratio: float | None = None
    """gamma / beta, as the authors' code writes it."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be finite and above 0, not {self.beta}")
        if (self.gamma is None) == (self.gamma_beta_ratio is None):
            raise ValueError(
                "give exactly one of gamma (the paper's margin) and gamma_beta_ratio (the authors'"
                " code: gamma = beta * gamma_beta_ratio)"
            )
        for name, value in (("gamma", self.gamma), ("gamma_beta_ratio", self.gamma_beta_ratio)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, not {value}")

    @property
    def margin(self) -> float:
        """gamma, whichever way it was given."""
        if self.gamma is not None:
            return self.gamma
        return self.beta * (self.gamma_beta_ratio or 0.0)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per pair; the implicit reward is beta Abar."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        rewards = self.beta * average_tokens(outputs.logps, mask)
        reward_w, reward_l = pairs.sides(rewards)
        losses = -logsigmoid(reward_w - reward_l - self.margin)
        return LossOutput(
            (pairs.term(losses),), pairs.describe(rewards, sum_tokens(outputs.logps, mask))
        )
