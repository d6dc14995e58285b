"""XPO: DPO that explores away from the reference (arXiv:2405.21046; ALGORITHMS 11.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import logsigmoid

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, Term, require, trained_tokens
from align.ops.logps import log_ratios, sum_tokens
from align.ops.pairs import PairRows


@dataclass(frozen=True)
class Xpo:
    """L = - logsig( beta (u_w - u_l) ) + alpha S(y_ref), S the summed log-prob of the side that was
    drawn from the reference, u = S - S_ref.

    Pairs are one sample of the policy against one of the reference. Of a pair that the reference
    wrote whole, as in the first iteration, the mean of both sides stands for S(y_ref): it has the
    same expectation. A pair without such a side is trained by DPO alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs", "ref_logps", "from_reference"})
    scope: ClassVar[str] = "local"

    beta: float = 0.1
    """Strength of the pull to the reference, > 0."""
    alpha: float = 1e-5
    """Strength of exploration, >= 0: 1e-5 in TRL, 5e-6 in the authors' runs with oat; 0 is DPO."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be finite and above 0, not {self.beta}")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and at least 0, not {self.alpha}")

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """Two terms per pair; `xpo/log_prob` is S(y_ref)."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        u = sum_tokens(log_ratios(outputs.logps, require(batch.ref_logps, "ref_logps"), mask), mask)
        u_w, u_l = pairs.sides(u)
        logps = sum_tokens(outputs.logps, mask)
        written = require(batch.from_reference, "from_reference").to(logps.dtype)
        sums_w, sums_l = pairs.sides(torch.where(written > 0, logps, 0.0))
        sides_w, sides_l = pairs.sides(written)
        explored = (sums_w + sums_l) / (sides_w + sides_l).clamp(min=1)
        has_side = pairs.is_whole & (sides_w + sides_l > 0)
        metrics = pairs.describe(self.beta * u, logps)
        metrics["xpo/log_prob"] = torch.where(has_side, explored.detach(), math.nan)
        return LossOutput(
            (
                pairs.term(-logsigmoid(self.beta * (u_w - u_l))),
                Term(torch.where(has_side, explored, 0.0), "pair", self.alpha),
            ),
            metrics,
        )
