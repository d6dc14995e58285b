"""Maximum likelihood of selected samples: best-of-n imitation, RAFT, ReST (ALGORITHMS 1.1, 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, trained_tokens
from align.ops.logps import average_tokens, sum_tokens
from align.ops.reduce import aggregate


@dataclass(frozen=True)
class Imitation:
    """L = - sum_i sum_t log pi(y_it) over the number of tokens, or of sequences.

    Which samples are imitated is the choice of `select`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    scope: ClassVar[str] = "local"

    aggregation: Literal["token_mean", "sequence_sum"] = "token_mean"
    """`token_mean` as in fine-tuning; `sequence_sum`: - E[log pi(y)], long samples pull more."""

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term; metrics per sequence: `logps` (sum) and `nll` (nats a token)."""
        mask = trained_tokens(batch, outputs)
        losses = torch.where(mask, -outputs.logps, 0.0)
        is_trained, detached = mask.any(-1), outputs.logps.detach()
        return LossOutput(
            (aggregate(losses, mask, self.aggregation),),
            {
                "logps": torch.where(is_trained, sum_tokens(detached, mask), math.nan),
                "nll": torch.where(is_trained, -average_tokens(detached, mask), math.nan),
            },
        )
