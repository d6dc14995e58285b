"""Objectives whose constants depend on the whole step, as plainly as such can be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, Term, require, trained_tokens
from align.ops.logps import log_ratios, sum_tokens


@dataclass(frozen=True)
class Ranked:
    """Each pair's margin is pulled to that of the pair that follows it in the step's order of
    margins: depends on every pair of the step, and on which of them the batch's own are.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pairs", "ref_logps"})
    scope: ClassVar[str] = "global_batch"

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        mask = trained_tokens(batch, outputs)
        chosen, rejected = require(batch.chosen, "chosen"), require(batch.rejected, "rejected")
        sums = sum_tokens(outputs.logps, mask)
        margins = sums[chosen] - sums[rejected]
        if batch.step is None:
            own, all_margins = torch.arange(len(margins)), margins.detach()
        else:
            step = batch.step
            own = require(step.own, "own")
            all_margins = step.logps[require(step.chosen, "chosen")]
            all_margins = all_margins - step.logps[require(step.rejected, "rejected")]
        ranks = all_margins.argsort().argsort()
        targets = all_margins.sort().values.roll(-1)[ranks][own]
        is_whole = mask.any(-1)[chosen] & mask.any(-1)[rejected]
        return LossOutput((Term(torch.where(is_whole, (margins - targets) ** 2, 0.0), "pair"),))


@dataclass(frozen=True)
class Unpaired:
    """KTO without its saturation: (u - z)^2 of the completions that score above 0, (u + z)^2 of the
    others, z the mean of mismatched log-ratios plus 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"scores", "ref_logps", "mismatched"})
    scope: ClassVar[str] = "global_batch"

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        mask = trained_tokens(batch, outputs)
        u = sum_tokens(log_ratios(outputs.logps, require(batch.ref_logps, "ref_logps"), mask), mask)
        assert batch.step is not None and batch.step.mismatched is not None
        z = batch.step.mismatched.mean() + 1
        losses = torch.where(require(batch.scores, "scores") > 0, (u - z) ** 2, (u + z) ** 2)
        return LossOutput((Term(torch.where(mask.any(-1), losses, 0.0), "sequence"),))
