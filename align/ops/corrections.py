"""Detached weights for samples whose engine's log-probs are not the trainer's (ALGORITHMS 10).

Three policies: mu wrote the sample (the engine, perhaps older and in another precision), old is the
same in the trainer's numerics, pi is trained. These weights mend mu -> old, from
q = log old - log mu, once, before the first step; ratios and clips are about old -> pi. They
multiply a policy-gradient loss after its clip, and no KL penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.batch import PolicyBatch
from align.ops.logps import average_tokens, exp_clipped, fill_missing, log_ratios, sum_tokens
from align.ops.windows import LARGEST_LOG_RATIO, at_level, ratio_of

CorrectionKind = Literal[
    "token_tis",
    "sequence_tis",
    "token_mask",
    "sequence_mask",
    "geometric_mask",
    "geometric_mask_tis",
]


@dataclass(frozen=True)
class Correction:
    """One weight a token, and what it leaves to train on."""

    weights: Float[Tensor, "N T"]
    """0 where masked out and where dropped."""
    kept: Bool[Tensor, "N T"]
    """Trained tokens that were not dropped."""
    counts: dict[str, int]
    """`tokens` and `sequences` that were trained on and are dropped now."""


def correct_mismatch(
    old_logps: Float[Tensor, "N T"],
    sampler_logps: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    kind: CorrectionKind,
    *,
    low: float,
    high: float,
) -> Correction:
    """Weights from q = log old - log mu of each token; a NaN of the sampler counts as q = 0.

    - `token_tis`: clip(e^q_t, low, high). Usual: 0 and 2 (verl), .5 and 5 (OpenRLHF).
    - `sequence_tis`: clip(e^(sum q), low, high) for all tokens. Usual high: 2 to 10.
    - `token_mask` (IcePop): e^q_t inside [low, high], else 0. Usual: .5 and 5.
    - `sequence_mask` (MIS): e^(sum q) inside, else the whole sequence is dropped. Usual: 0 and 3.
    - `geometric_mask`: 1 where e^(mean q) is inside, else dropped. Usual: .999 and 1.001.
    - `geometric_mask_tis`: e^q_t where e^(mean q) is inside, else dropped.

    Rows do not depend on each other. Raises ValueError unless 0 <= low < high < inf.
    """
    check_band(low, high)
    q = _mismatch(old_logps, sampler_logps, mask)
    match kind:
        case "token_tis":
            weights, inside = exp_clipped(q, low, high), mask
        case "sequence_tis":
            weights, inside = exp_clipped(at_level(q, mask, "sequence"), low, high), mask
        case "token_mask":
            weights, inside = exp_clipped(q, low, high), _inside(q, low, high)
        case "sequence_mask":
            total = at_level(q, mask, "sequence")
            weights, inside = exp_clipped(total, low, high), _inside(total, low, high)
        case "geometric_mask":
            weights = torch.ones_like(q)
            inside = _inside(at_level(q, mask, "geometric"), low, high)
        case "geometric_mask_tis":
            weights, inside = ratio_of(q), _inside(at_level(q, mask, "geometric"), low, high)
        case unknown:
            assert_never(unknown)
    kept = mask & inside
    return Correction(
        torch.where(kept, weights, 0.0),
        kept,
        {
            "tokens": int((mask & ~kept).sum()),
            "sequences": int((mask.any(-1) & ~kept.any(-1)).sum()),
        },
    )


def check_band(low: float, high: float) -> None:
    """Raises ValueError unless 0 <= low < high < inf."""
    if not 0 <= low < high < math.inf:
        raise ValueError(f"a correction needs 0 <= low < high < inf, not low {low} and high {high}")


def mask_off_policy(
    log_ratios: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    advantages: Float[Tensor, "N U"],
    threshold: float,
) -> Bool[Tensor, "N T"]:
    """False where A < 0 and mean_t(log mu - log pi) of the sequence exceeds `threshold`.

    The off-policy sequence mask of DeepSeek-V3.2: a bad sample that the policy no longer writes has
    nothing left to teach. `log_ratios` is log pi/mu, 0 where masked out.
    """
    drift = -average_tokens(log_ratios.detach(), mask)
    return ~((advantages < 0) & (drift > threshold)[:, None])


def correct(
    losses: Float[Tensor, "N T"], batch: PolicyBatch, mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """The token losses times the batch's correction, if it has one; 0 where masked out."""
    if batch.correction is not None:
        losses = losses * torch.where(mask, batch.correction.detach(), 0.0)
    return torch.where(mask, losses, 0.0)


def mismatch_statistics(
    old_logps: Float[Tensor, "N T"],
    sampler_logps: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    correction: Correction | None = None,
) -> dict[str, float]:
    """How far the engine is from the trainer, over trained tokens; {} where there is none.

    `mean` and `max` of |q|; `k3`: mean of e^q - q - 1, an estimate of KL(mu || old) a token;
    `effective_share`: (sum w)^2 / (n sum w^2) of the sequence ratios w = e^(sum q), or of the
    correction's token weights where there is one; `kept_share` of tokens. A kept share below 2/3
    under a cap of 3 proves wrong log-probs: with exact ones E_mu[e^(sum q)] = 1.
    """
    if not bool(mask.any()):
        return {}
    q = _mismatch(old_logps, sampler_logps, mask)
    known = q[mask].double()
    cut = known.clamp(max=LARGEST_LOG_RATIO)
    if correction is None:
        log_weights = sum_tokens(q, mask)[mask.any(-1)].double()
        kept = 1.0
    else:
        log_weights = correction.weights[mask].double().log()  # log 0 = -inf: weighs nothing
        kept = float(correction.kept[mask].double().mean())
    return {
        "mean": float(known.abs().mean()),
        "max": float(known.abs().max()),
        "k3": float((torch.expm1(cut) - cut).mean()),
        "effective_share": effective_share(log_weights),
        "kept_share": kept,
    }


def effective_share(log_weights: Float[Tensor, " n"]) -> float:
    """(sum w)^2 / (n sum w^2), in 0 to 1: 1 for equal weights, 1/n where one has all.

    0 where nothing weighs anything. In log space: the weights of long sequences overflow.
    """
    if not bool((log_weights > -math.inf).any()):
        return 0.0
    total = 2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)
    return float((total - math.log(len(log_weights))).exp())


def _mismatch(
    old_logps: Float[Tensor, "N T"],
    sampler_logps: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
) -> Float[Tensor, "N T"]:
    old = old_logps.detach()
    return log_ratios(old, fill_missing(sampler_logps.detach(), old), mask)


def _inside(log_ratio: Float[Tensor, "N T"], low: float, high: float) -> Bool[Tensor, "N T"]:
    lowest = math.log(low) if low > 0 else -math.inf
    return (log_ratio >= lowest) & (log_ratio <= math.log(high))
