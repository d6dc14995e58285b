"""What must hold before the first update, because it follows from what the policy starts as
(I2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.batch import PolicyBatch, PolicyOutputs, StepSums
from align.ops.logps import log_ratios
from align.ops.reduce import count_items, reduce
from align.protocols import Objective

TOKEN_TOLERANCE = 1e-4
"""Largest |log rho| of a token before the first update where policy and reference or sampler are
one, in float32 (I2).
"""
SEQUENCE_TOLERANCE = 1e-3
"""Largest |log rho| of a sequence there: errors of one sign add up over its tokens (ALGORITHMS
7.7).
"""
MEAN_TOLERANCE = 0.1
"""Largest mean over tokens in 16-bit types, whose errors are 0.02 to 0.03 a token (ALGORITHMS 0.3).
"""


@dataclass(frozen=True)
class StartsEqual:
    """What the policy equals before the first update, so that step 0 can be checked."""

    reference: bool = False
    sampler: bool = False
    loss: float | None = None
    """The loss that follows, e.g. ln 2 for DPO."""


def disagreement(
    logps: Float[Tensor, "N T"],
    others: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    is_exact: bool,
) -> str | None:
    """How far two forwards of the same weights are apart, or None where that is within rounding.

    `is_exact` says that they are in float32. A NaN counts as no difference.
    """
    ratios = log_ratios(logps, others, mask).nan_to_num()
    token, sequence = float(ratios.abs().max()), float(ratios.sum(-1).abs().max())
    mean = float(ratios.abs().sum() / mask.sum().clamp(min=1))
    is_off = token > TOKEN_TOLERANCE or sequence > SEQUENCE_TOLERANCE
    if not (is_exact and is_off) and mean <= MEAN_TOLERANCE:
        return None
    return (
        f"a token's log ratio is {token:.2e} (allowed {TOKEN_TOLERANCE:.0e}, mean {mean:.2e}) and "
        f"a sequence's {sequence:.2e} (allowed {SEQUENCE_TOLERANCE:.0e})"
    )


def loss_at_equality(objective: Objective) -> float | None:
    """The objective's loss where policy and reference are one, if it is one number: ln 2 for DPO.

    Found by asking it about two made batches that have nothing but the equality in common (lengths,
    log-probs, margins and scores differ). None where the two answers differ, or where the objective
    reads no reference.
    """
    if "ref_logps" not in objective.needs:
        return None
    one = _made_loss(objective, lengths=(3, 1, 2, 2), scale=1.0)
    other = _made_loss(objective, lengths=(1, 4, 1, 3), scale=1.7)
    return one if abs(one - other) < 1e-6 else None


def _made_loss(objective: Objective, *, lengths: tuple[int, ...], scale: float) -> float:
    """Two pairs, or four completions of which two are wanted, under a policy that is its reference
    and its sampler.
    """
    needs, count, width = objective.needs, len(lengths), max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    places = torch.arange(count * width, dtype=torch.float64).view(count, width)
    logps = torch.where(mask, -scale * (1 + places.sin().abs()), 0.0)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    sums, pairs = logps.sum(-1), (torch.tensor([0, 2]), torch.tensor([1, 3]))
    is_paired = "pairs" in needs
    batch = PolicyBatch(
        mask=mask,
        sampling_logps=logps,
        ref_logps=logps,
        temperature=torch.ones(count),
        advantages=scale * signs,
        scores=signs,
        from_reference=signs < 0,
        group=torch.tensor([0, 0, 1, 1]),
        chosen=pairs[0] if is_paired else None,
        rejected=pairs[1] if is_paired else None,
        margin=scale * torch.tensor([0.5, 1.5], dtype=torch.float64) if is_paired else None,
        step=StepSums(
            sums,
            sums,
            chosen=pairs[0] if is_paired else None,
            rejected=pairs[1] if is_paired else None,
            own=torch.arange(2) if is_paired else None,
            mismatched=torch.zeros(count, dtype=torch.float64),
        ),
    )
    outputs = PolicyOutputs(
        logps,
        entropy=torch.where(mask, scale, 0.0) if "entropy" in needs else None,
        sum_p_squared=torch.where(mask, 0.3 * scale, 0.0) if "sum_p_squared" in needs else None,
    )
    return float(reduce(objective(outputs, batch), count_items(batch)))
