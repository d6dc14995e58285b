"""What every policy-gradient objective may add to its loss: a KL penalty and an entropy bonus.

L = policy term + kl.weight * Agg[KL_t] - entropy * Agg[H_t] (ALGORITHMS 8.1), all with the
objective's own aggregation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool
from pydantic import ConfigDict
from torch import Tensor

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, Ratio, Term, require
from align.ops.kl import Estimator, estimate_kl
from align.ops.logps import sum_tokens
from align.ops.reduce import Aggregation, aggregate
from align.ops.windows import ratio_of, sampler_log_ratios


@dataclass(frozen=True)
class KlPenalty:
    """Penalty for leaving the reference, token by token (ALGORITHMS 9.1)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", use_attribute_docstrings=True
    )

    weight: float
    """Strength, > 0: .04 in DeepSeekMath's GRPO, .001 in R1's."""
    estimator: Estimator = "k3+"
    """`k3+`: value of k3, gradient of k2; `k2`; `k3`: GRPO's, a forward-type gradient. Not k1."""
    off_policy: bool = False
    """Weigh by the token's ratio to the sampler, so that stored samples give the gradient of the
    reverse KL (tokens given their prefixes; the prefixes stay the sampler's).
    """

    def __post_init__(self) -> None:
        if self.estimator == "k1":
            raise ValueError(
                "k1 as a loss has zero expected gradient, E_pi[grad log pi] = 0, and would only add"
                " noise: use k2 or k3+ (k1 belongs in the reward)"
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"the weight of kl must be finite and above 0, not {self.weight};"
                " leave kl out for none"
            )


def regulariser_needs(kl: KlPenalty | None, entropy: float) -> frozenset[str]:
    """What the two read beside the objective's own columns."""
    wanted = {
        "ref_logps": kl is not None,
        "sampling_logps": kl is not None and kl.off_policy,
        "entropy": entropy != 0,
    }
    return frozenset(name for name, is_wanted in wanted.items() if is_wanted)


def check_entropy(entropy: float) -> None:
    """Raises ValueError for a weight of the entropy bonus that is negative or not finite."""
    if not 0 <= entropy < math.inf:
        raise ValueError(f"entropy is the weight of a bonus, finite and at least 0, not {entropy}")


def regularise(
    outputs: PolicyOutputs,
    batch: PolicyBatch,
    mask: Bool[Tensor, "N T"],
    kl: KlPenalty | None,
    entropy: float,
    aggregation: Aggregation,
    constant: float | None = None,
) -> LossOutput:
    """The terms of the two, if any; neither is multiplied by `batch.correction`.

    Metrics: `kl/penalty` (the estimator) and `entropy`, both in nats a token.
    """
    terms: list[Term] = []
    metrics: dict[str, Tensor | Ratio] = {}
    tokens = mask.sum(-1)
    if kl is not None:
        reference = require(batch.ref_logps, "ref_logps")
        values = estimate_kl(outputs.logps, reference, mask, kl.estimator)
        metrics["kl/penalty"] = Ratio(sum_tokens(values.detach(), mask), tokens)
        if kl.off_policy:
            values = values * _off_policy_factor(outputs, batch, mask, kl.estimator)
        terms.append(
            replace(aggregate(values, mask, aggregation, constant=constant), weight=kl.weight)
        )
    if entropy != 0:
        entropies = torch.where(mask, require(outputs.entropy, "entropy"), 0.0)
        metrics["entropy"] = Ratio(sum_tokens(entropies.detach(), mask), tokens)
        terms.append(
            replace(aggregate(entropies, mask, aggregation, constant=constant), weight=-entropy)
        )
    return LossOutput(tuple(terms), metrics)


def _off_policy_factor(
    outputs: PolicyOutputs,
    batch: PolicyBatch,
    mask: Bool[Tensor, "N T"],
    estimator: Estimator,
) -> Tensor:
    """pi/mu of each token.

    E_mu[r k3] = KL(pi || ref), so that r keeps its gradient there (TRL's bias correction); k2's
    value is biased and only its gradient is right, which a detached r carries over. Sample by
    sample both give -r d grad log pi.
    """
    ratio = ratio_of(sampler_log_ratios(outputs, batch, mask))
    return ratio if estimator == "k3" else ratio.detach()
