"""Every objective of preferences, and sums of a whole step for parts of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.cpo import Cpo
from align.objectives.dpo import Dpo
from align.objectives.kto import Kto
from align.objectives.orpo import Orpo
from align.objectives.redi import Redi
from align.objectives.simpo import Simpo
from align.objectives.slic import Slic
from align.objectives.xpo import Xpo
from align.ops.batch import PolicyBatch, StepSums
from align.protocols import Objective

PREFERENCE_OBJECTIVES: list[Objective] = [
    Dpo(),
    Dpo(loss="cdpo"),
    Dpo(loss="robust"),
    Dpo(loss="hinge"),
    Dpo(loss="ipo"),
    Dpo(loss="ipo", ipo_length_norm="sum"),
    Dpo(loss="sigmoid_norm"),
    Dpo(loss="exo"),
    Dpo(loss="nca"),
    Dpo(loss="bco"),
    Dpo(loss="sppo"),
    Dpo(loss="apo_zero"),
    Dpo(loss="apo_down"),
    Dpo(loss="discopop"),
    Dpo(loss="discopop", tau=1.0),
    Dpo(loss="rpo"),
    Dpo(loss="rpo", nll_norm="token_mean"),
    Dpo(loss="rpo", nll_norm="sequence_sum"),
    Dpo(loss="r_dpo", alpha=0.05),
    Dpo(loss="odpo"),
    Dpo(loss="dpop", penalty=5.0),
    Dpo(loss="wpo"),
    Dpo(loss="wpo", clamp_weights=False),
    Dpo(loss="ld_dpo", alpha=0.5),
    Dpo(loss="aot"),
    Dpo(loss="aot_unpaired"),
    Dpo(divergence="forward_kl"),
    Dpo(divergence="js"),
    Dpo(divergence="alpha", alpha=0.99),
    Dpo(loss="cdpo", divergence="forward_kl"),
    Dpo(loss="robust", divergence="alpha"),
    Dpo(loss="hinge", divergence="forward_kl"),
    Dpo(loss="sigmoid_norm", divergence="forward_kl"),
    Dpo(loss="exo", divergence="forward_kl"),
    Dpo(loss="discopop", divergence="forward_kl"),
    Slic(),
    Simpo(gamma=1.0),
    Simpo(gamma_beta_ratio=0.5),
    Orpo(),
    Cpo(),
    Cpo(nll_norm="sequence_mean"),
    Kto(),
    Kto(desirable_weight=1.3, baseline="zero"),
    Redi(),
    Xpo(alpha=0.1),
]


def step_for(
    logps: Tensor, batch: PolicyBatch, own: slice, mismatched: Tensor | None = None
) -> StepSums | None:
    """What a trainer would hand to the part of the batch that has the pairs `own`: sums of its
    trained rows and its whole pairs. None where there is no whole pair.
    """
    assert batch.mask is not None and batch.ref_logps is not None
    assert batch.chosen is not None and batch.rejected is not None
    mask = batch.mask.bool()
    is_trained = mask.any(-1)
    is_whole = is_trained[batch.chosen] & is_trained[batch.rejected]
    if not is_whole.any() and mismatched is None:
        return None
    place = is_trained.cumsum(0) - 1
    sums = [torch.where(mask, each, 0.0).sum(-1)[is_trained] for each in (logps, batch.ref_logps)]
    return StepSums(
        logps=sums[0],
        ref_logps=sums[1],
        chosen=place[batch.chosen[is_whole]],
        rejected=place[batch.rejected[is_whole]],
        own=(is_whole.cumsum(0) - 1).clamp(min=0)[own],
        mismatched=mismatched,
    )
