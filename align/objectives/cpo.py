"""CPO: DPO with a uniform reference, and the likelihood of the chosen side (ALGORITHMS 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, trained_tokens
from align.ops.logps import sum_tokens
from align.ops.pairs import NllNorm, PairRows


@dataclass(frozen=True)
class Cpo:
    """L = - logsig( beta (S_w - S_l) ) + nll_weight NLL_w, S the summed log-probs
    (arXiv:2401.08417).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    scope: ClassVar[str] = "local"

    beta: float = 0.1
    """Scale of the margin, > 0."""
    nll_weight: float = 1.0
    """alpha (TRL calls it cpo_alpha), >= 0."""
    nll_norm: NllNorm = "token_mean"
    """`token_mean` of all chosen tokens, as the authors' code does, `sequence_mean` or
    `sequence_sum`."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be finite and above 0, not {self.beta}")
        if not 0 <= self.nll_weight < math.inf:
            raise ValueError(f"nll_weight must be finite and at least 0, not {self.nll_weight}")

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """A term for the preference and one for the likelihood; the implicit reward is beta S."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        logps = sum_tokens(outputs.logps, mask)
        logps_w, logps_l = pairs.sides(logps)
        return LossOutput(
            (
                pairs.term(-logsigmoid(self.beta * (logps_w - logps_l))),
                pairs.nll(outputs.logps, mask, self.nll_norm, self.nll_weight),
            ),
            pairs.describe(self.beta * logps, logps),
        )
