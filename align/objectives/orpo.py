"""ORPO: fine-tuning on the chosen side and the odds ratio of the two (ALGORITHMS 3.1, 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, trained_tokens
from align.ops.logps import average_tokens, sum_tokens
from align.ops.pairs import PairRows

LARGEST_MEAN = -1e-6
"""A completion of probability 1 has infinite odds; its mean log-prob counts as this."""


@dataclass(frozen=True)
class Orpo:
    """L = - Abar_w - odds_weight logsig( logit(e^Abar_w) - logit(e^Abar_l) ).

    Abar is the mean log-prob a token (arXiv:2403.07691, eq. 6 and 7). The likelihood is that of the
    completion; TRL's also covers the prompt.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    scope: ClassVar[str] = "local"

    odds_weight: float = 0.1
    """lambda (TRL calls it beta), >= 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.odds_weight < math.inf:
            raise ValueError(f"odds_weight must be finite and at least 0, not {self.odds_weight}")

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """A term for the likelihood and one for the odds; the implicit reward is lambda Abar."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        means = average_tokens(outputs.logps, mask)
        odds_w, odds_l = pairs.sides(_log_odds(means))
        return LossOutput(
            (
                pairs.nll(outputs.logps, mask, "sequence_mean", 1.0),
                pairs.term(-self.odds_weight * logsigmoid(odds_w - odds_l)),
            ),
            pairs.describe(self.odds_weight * means, sum_tokens(outputs.logps, mask)),
        )


def _log_odds(logps: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(p / (1 - p))."""
    logps = logps.clamp(max=LARGEST_MEAN)
    return logps - torch.log(-torch.expm1(logps))
