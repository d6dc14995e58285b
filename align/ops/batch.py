"""The tensors an objective sees and returns. Axes: N completions, T completion tokens, P pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class StepSums:
    """Sequence log-probs of a whole optimizer step, without gradient, alike on every rank.

    For objectives of `scope = "global_batch"`. Axes: M trained rows of the step in the order of
    its plan, P the pairs of the batch that this is given to, Q all pairs of the step.
    """

    logps: Float[Tensor, " M"]
    """sum_t log pi(y_t) under the policy as it is at this step. Empty where the objective asks for
    `mismatched`, which is what is forwarded then."""
    ref_logps: Float[Tensor, " M"]
    chosen: Int[Tensor, " Q"] | None = None
    """Places in the axis M."""
    rejected: Int[Tensor, " Q"] | None = None
    own: Int[Tensor, " P"] | None = None
    """Which of the step's Q pairs the batch's own pairs are."""
    mismatched: Float[Tensor, " K"] | None = None
    """sum_t log pi - log ref of completions after the prompts of others (KTO's z0)."""


@dataclass(frozen=True)
class PolicyBatch:
    """Right-padded completions of whole prompt groups, built with only what the objective needs."""

    mask: Float[Tensor, "N T"] | Bool[Tensor, "N T"] | None = None
    """1 on tokens that are trained on; 0 on padding, tool and environment tokens. None: all are."""
    sampling_logps: Float[Tensor, "N T"] | None = None
    """log mu: under the weights and temperature that drew the sample."""
    ref_logps: Float[Tensor, "N T"] | None = None
    """Under the reference, at temperature 1."""
    temperature: Float[Tensor, " N"] | None = None
    advantages: Float[Tensor, " N"] | Float[Tensor, "N T"] | None = None
    """After the baseline; their sign picks the window of a policy-gradient objective."""
    scores: Float[Tensor, " N"] | None = None
    """Raw rewards."""
    group: Int[Tensor, " N"] | None = None
    """Which prompt of the batch each row belongs to."""
    chosen: Int[Tensor, " P"] | None = None
    """Row indices."""
    rejected: Int[Tensor, " P"] | None = None
    margin: Float[Tensor, " P"] | None = None
    from_reference: Bool[Tensor, " N"] | None = None
    """Whether the row was drawn from the reference."""
    correction: Float[Tensor, "N T"] | None = None
    """Detached weights for the engine's mismatch (`ops/corrections.py`); None: 1 everywhere."""
    step: StepSums | None = None
    """The step that this is a part of; None: this batch is the whole step."""


@dataclass(frozen=True)
class PolicyOutputs:
    """What the trained policy says about the tokens; only `logps` carries gradient for certain."""

    logps: Float[Tensor, "N T"]
    entropy: Float[Tensor, "N T"] | None = None
    sum_p_squared: Float[Tensor, "N T"] | None = None


@dataclass(frozen=True)
class Term:
    """One summand of a loss, not reduced: `values` a token (N, T), a sequence (N,), a pair (P,) or
    a token of a pair's chosen side (P, T).

    Values of masked tokens, of sequences without a trained token and of pairs that hold one are
    exactly 0.
    """

    values: Float[Tensor, "*shape"]
    per: Literal["token", "sequence", "pair", "chosen_token"]
    weight: float = 1.0


@dataclass(frozen=True)
class Ratio:
    """A metric that is a quotient of two sums over the whole batch: items weigh differently."""

    numerators: Float[Tensor, " items"]
    denominators: Float[Tensor, " items"]


@dataclass(frozen=True)
class LossOutput:
    """Terms to be normalised once, with global counts, by `ops/reduce.py`; metrics are detached."""

    terms: tuple[Term, ...]
    metrics: Mapping[str, Tensor | Ratio] = field(default_factory=dict)
    """Values a sequence (N,) or pair (P,), NaN where one does not count (`reduce.sum_metrics`)."""


def require(tensor: Tensor | None, name: str) -> Tensor:
    """The tensor; raises ValueError where the batch was built without it."""
    if tensor is None:
        raise ValueError(f"this objective needs {name}, and the batch was built without it")
    return tensor


def token_advantages(batch: PolicyBatch) -> Float[Tensor, "N U"]:
    """Detached advantages, one a sequence (N, 1) or one a token (N, T)."""
    advantages = require(batch.advantages, "advantages").detach()
    return advantages if advantages.ndim == 2 else advantages[:, None]


def trained_tokens(batch: PolicyBatch, outputs: PolicyOutputs) -> Bool[Tensor, "N T"]:
    """The mask as booleans; all true where the batch has none."""
    if batch.mask is None:
        return torch.ones_like(outputs.logps, dtype=torch.bool)
    return batch.mask.bool()
