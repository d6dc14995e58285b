"""REINFORCE on stored tokens, weighed by a window of the ratio to the sampler (ALGORITHMS 14.2).

One equation with the settings of several papers; `topr` has a file of its own.

| name | window for A >= 0 | window for A < 0 | ratio | aggregation |
|---|---|---|---|---|
| `naive` | 1 | 1 | none | sequence sum |
| `positives_only` | 1 | 0 | none | sequence sum |
| `tis` | [0, max_weight] | the same | sequence | sequence sum |
| `cispo` | [min_weight, max_weight] | the same | token | token mean |
| `topr` | 1 | [0, 1] | sequence | sequence sum |

`sampling_logps` are the anchor of the ratio and the policy that sampled in one (bypass mode: old =
mu); where the engine's own numerics differ, `train.correction` mends that part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from align.objectives.regularisers import (
    KlPenalty,
    check_entropy,
    regularise,
    regulariser_needs,
)
from align.objectives.window_metrics import describe_drift, describe_weights
from align.ops.batch import (
    LossOutput,
    PolicyBatch,
    PolicyOutputs,
    Ratio,
    token_advantages,
    trained_tokens,
)
from align.ops.corrections import correct
from align.ops.logps import sum_tokens
from align.ops.reduce import Aggregation, aggregate, check_aggregation
from align.ops.windows import (
    RatioLevel,
    Window,
    at_level,
    average_at_level,
    check_window,
    describe_ratios,
    outside,
    sampler_log_ratios,
    weigh_tokens,
)


def weigh_by_window(
    outputs: PolicyOutputs,
    batch: PolicyBatch,
    *,
    positive: Window,
    negative: Window,
    level: RatioLevel | None,
    aggregation: Aggregation = "sequence_sum",
    constant: float | None = None,
    kl: KlPenalty | None,
    entropy: float,
) -> LossOutput:
    """L = - Agg[ w sg(clip(rho, a, b)) A log pi ], [a, b] by the sign of A, and the regularisers.

    w is the batch's correction. `level` None says that both windows are constants: no
    `sampling_logps` are read. Metrics: of the ratio (`ops.windows.describe_ratios`), and whether
    negatives still teach.
    """
    mask = trained_tokens(batch, outputs)
    advantages = token_advantages(batch)
    is_trained, logps = mask.any(-1), outputs.logps.detach()
    metrics: dict[str, Tensor | Ratio] = {
        "logps": torch.where(is_trained, sum_tokens(logps, mask), math.nan)
    }
    ratios = torch.zeros_like(logps)
    if level is not None:
        ratios = sampler_log_ratios(outputs, batch, mask).detach()
        metrics |= describe_ratios(ratios, mask, level)
        leveled = at_level(ratios, mask, level)
        low_and_high = zip(
            ("low", "high"), outside(leveled, positive), outside(leveled, negative), strict=True
        )
        for side, if_positive, if_negative in low_and_high:
            clipped = torch.where(advantages >= 0, if_positive, if_negative)
            metrics[f"clip_share/{side}"] = average_at_level(clipped, mask, level)
    alpha = weigh_tokens(
        ratios, mask, advantages, positive=positive, negative=negative, level=level or "token"
    )
    losses = correct(-alpha * advantages * outputs.logps, batch, mask)
    signed = advantages.expand_as(alpha)
    metrics |= describe_weights(alpha, signed, mask)
    if level is not None:
        metrics |= describe_drift(ratios, alpha, signed, mask)
    extra = regularise(outputs, batch, mask, kl, entropy, aggregation, constant)
    return LossOutput(
        (aggregate(losses, mask, aggregation, constant=constant), *extra.terms),
        metrics | dict(extra.metrics),
    )


@dataclass(frozen=True)
class Naive:
    """Off-policy REINFORCE without a correction: L = - mean_i A_i sum_t log pi(y_it).

    The baseline of TOPR's experiments: unbounded below on stored negatives, so that it collapses
    (ALGORITHMS 7.1). On the policy's own samples it is `reinforce`.
    """

    scope: ClassVar[str] = "local"

    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages"}) | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per sequence, and the regularisers."""
        return weigh_by_window(
            outputs,
            batch,
            positive=(1.0, 1.0),
            negative=(1.0, 1.0),
            level=None,
            kl=self.kl,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class PositivesOnly:
    """Imitation in proportion to the advantage: L = - mean_i max(A_i, 0) sum_t log pi(y_it).

    STaR, ReST and RAFT as a policy gradient. Sequences with A < 0 add nothing to the sum and count
    in the mean, so that the step shrinks with the share of positives.
    """

    scope: ClassVar[str] = "local"

    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages"}) | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per sequence, and the regularisers."""
        return weigh_by_window(
            outputs,
            batch,
            positive=(1.0, 1.0),
            negative=(0.0, 0.0),
            level=None,
            kl=self.kl,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class Tis:
    """Truncated importance sampling: grad J = E_mu[ min(rho, C) A grad log pi ].

    With `ratio_level: token`, `aggregation: token_mean` and C of 2 or more it is the token form
    that recent online trainers use.
    """

    scope: ClassVar[str] = "local"

    max_weight: float = 1.0
    """C, > 0: the largest weight."""
    ratio_level: RatioLevel = "sequence"
    """`sequence` (product over tokens), `geometric` (its mean a token) or `token`."""
    aggregation: Aggregation = "sequence_sum"
    """`sequence_sum` (the estimator), `token_mean`, `sequence_mean`, or `constant`."""
    constant: float | None = None
    """Divisor of `aggregation: constant`, usually `max_new_tokens`."""
    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        own = frozenset({"advantages", "sampling_logps"})
        return own | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        if not 0 < self.max_weight < math.inf:
            raise ValueError(f"max_weight must be finite and above 0, not {self.max_weight}")
        check_aggregation(self.aggregation, self.constant)
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term, and the regularisers. A NaN in `sampling_logps` counts as ratio 1."""
        return weigh_by_window(
            outputs,
            batch,
            positive=(0.0, self.max_weight),
            negative=(0.0, self.max_weight),
            level=self.ratio_level,
            aggregation=self.aggregation,
            constant=self.constant,
            kl=self.kl,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class Cispo:
    """Clipped IS-weight policy optimization (MiniMax-M1, arXiv:2506.13585, eq. 4).

    L = - mean over tokens of sg(clip(r_t, lo, hi)) A log pi(y_t): unlike PPO's clip no token loses
    its gradient. The bounds are absolute weights, not distances from 1: verl's `1 + epsilon_high`,
    TRL's `epsilon_high` itself (ALGORITHMS 8.4).
    """

    scope: ClassVar[str] = "local"

    max_weight: float = 5.0
    """hi, absolute."""
    min_weight: float = 0.0
    """lo, absolute; 0 is no lower bound."""
    ratio_level: RatioLevel = "token"
    """`token` (the paper), `geometric` or `sequence`."""
    aggregation: Aggregation = "token_mean"
    """`token_mean` (the paper), `sequence_mean`, `sequence_sum`, or `constant`."""
    constant: float | None = None
    """Divisor of `aggregation: constant`, usually `max_new_tokens`."""
    kl: KlPenalty | None = None
    """Penalty for leaving the reference: `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        own = frozenset({"advantages", "sampling_logps"})
        return own | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        check_window((self.min_weight, self.max_weight), "[min_weight, max_weight]")
        if self.max_weight < 1:
            raise ValueError(
                f"max_weight is absolute, and {self.max_weight} would shrink even the weight 1 of"
                f" an unchanged policy; did you mean {1 + self.max_weight:g}?"
            )
        check_aggregation(self.aggregation, self.constant)
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term, and the regularisers. A NaN in `sampling_logps` counts as ratio 1."""
        window = (self.min_weight, self.max_weight)
        return weigh_by_window(
            outputs,
            batch,
            positive=window,
            negative=window,
            level=self.ratio_level,
            aggregation=self.aggregation,
            constant=self.constant,
            kl=self.kl,
            entropy=self.entropy,
        )
