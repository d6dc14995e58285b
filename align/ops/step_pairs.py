"""All pairs of an optimizer step, for losses whose constants depend on every one of them (I3)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from align.ops.batch import StepSums, require
from align.ops.pairs import PairRows


@dataclass(frozen=True)
class StepPairs:
    """Sequence log-probs S of both sides of the step's Q pairs, without gradient."""

    logps_w: Float[Tensor, " Q"]
    logps_l: Float[Tensor, " Q"]
    ref_w: Float[Tensor, " Q"]
    ref_l: Float[Tensor, " Q"]
    own: Int[Tensor, " P"]
    """Which of them the batch's own pairs are."""

    @classmethod
    def of(
        cls,
        step: StepSums | None,
        pairs: PairRows,
        logps: Float[Tensor, " N"],
        ref_logps: Float[Tensor, " N"],
    ) -> StepPairs:
        """From the step, or from the batch's own sums where it is the whole step."""
        if step is not None:
            chosen = require(step.chosen, "step.chosen")
            rejected = require(step.rejected, "step.rejected")
            own = require(step.own, "step.own")
            sums, refs = step.logps.detach(), step.ref_logps.detach()
        else:
            # of pairs that count nowhere the own place is arbitrary: their loss is set to 0
            kept = pairs.is_whole if bool(pairs.is_whole.any()) else ~pairs.is_whole
            chosen, rejected = pairs.chosen[kept], pairs.rejected[kept]
            own = (kept.cumsum(0) - 1).clamp(min=0)
            sums, refs = logps.detach(), ref_logps.detach()
        return cls(sums[chosen], sums[rejected], refs[chosen], refs[rejected], own)

    @property
    def u_w(self) -> Float[Tensor, " Q"]:
        """Log-ratios to the reference."""
        return self.logps_w - self.ref_w

    @property
    def u_l(self) -> Float[Tensor, " Q"]:
        """Log-ratios to the reference."""
        return self.logps_l - self.ref_l


def counterparts(values: Float[Tensor, " Q"], others: Float[Tensor, " Q"]) -> Float[Tensor, " Q"]:
    """For each value the one of `others` that has its rank: sorted against sorted, in the order of
    `values`.

    >>> counterparts(torch.tensor([3.0, 0.5]), torch.tensor([1.5, 0.7]))
    tensor([1.5000, 0.7000])
    """
    ranks = values.argsort(stable=True).argsort()
    return others.sort().values[ranks]
