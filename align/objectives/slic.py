"""SLiC: a hinge of log-probs without a reference, and likelihood (ALGORITHMS 3.1, 4.1, 11.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, trained_tokens
from align.ops.logps import sum_tokens
from align.ops.pairs import NllNorm, PairRows


@dataclass(frozen=True)
class Slic:
    """L = max(0, delta - beta (S_w - S_l)) + nll_weight NLL_w, S the summed log-probs
    (SLiC-HF, arXiv:2305.10425, with the best candidate as target).

    With beta = gamma, delta = 1 and nll_weight = 0 this is RSO's `hinge`; its `hinge-norm`, which
    has a reference, is `dpo` with `loss: hinge`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    scope: ClassVar[str] = "local"

    beta: float = 1.0
    """Scale of the margin, > 0."""
    delta: float = 1.0
    """Margin that is enough, > 0."""
    nll_weight: float = 0.5
    """lambda of the likelihood, >= 0; the paper's range is 0.5 to 1."""
    nll_norm: NllNorm = "sequence_sum"
    """`sequence_sum`, `sequence_mean`, or `token_mean` of all chosen tokens."""

    def __post_init__(self) -> None:
        for name, value in (("beta", self.beta), ("delta", self.delta)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, not {value}")
        if not 0 <= self.nll_weight < math.inf:
            raise ValueError(f"nll_weight must be finite and at least 0, not {self.nll_weight}")

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """A term for the hinge and one for the likelihood; the implicit reward is beta S."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        logps = sum_tokens(outputs.logps, mask)
        logps_w, logps_l = pairs.sides(logps)
        return LossOutput(
            (
                pairs.term(torch.relu(self.delta - self.beta * (logps_w - logps_l))),
                pairs.nll(outputs.logps, mask, self.nll_norm, self.nll_weight),
            ),
            pairs.describe(self.beta * logps, logps),
        )
