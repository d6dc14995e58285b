"""From terms to one number, with counts over the whole optimizer step (ALGORITHMS 0.3, 8.1).

An optimizer step sees several micro-batches on several ranks. Before the first of them the trainer
calls `count_items` on each, adds the counts (`+`) and all-reduces them once (`to_tensor`,
`from_tensor`). Then `reduce` of each micro-batch, summed over micro-batches and ranks, is the loss
of the step whatever the split.

DDP and FSDP *average* gradients over ranks, where a sum is needed: multiply the reduced loss by the
number of ranks that average (`loss * world_size`). Likewise undo any division by the number of
accumulation steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.batch import LossOutput, PolicyBatch, Ratio, Term
from align.ops.logps import average_tokens, sum_tokens

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "constant"]
"""How token losses become a loss; all but the first are means over sequences.

`token_mean`: over all tokens (DAPO). `sequence_mean`: of each sequence's token mean (GRPO).
`sequence_sum`: of each sequence's token sum (REINFORCE, TOPR). `constant`: of token sums divided by
a constant (Dr. GRPO).
"""


@dataclass(frozen=True)
class Counts:
    """The denominators of a step."""

    token: int
    """Trained tokens."""
    sequence: int
    """Sequences with at least one trained token."""
    pair: int
    """Pairs both of whose sides have one."""
    chosen_token: int = 0
    """Trained tokens of the chosen sides of these pairs; a row counts in each of its pairs."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.token + other.token,
            self.sequence + other.sequence,
            self.pair + other.pair,
            self.chosen_token + other.chosen_token,
        )

    def to_tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """An int64 tensor (4,), to be summed over ranks."""
        return torch.tensor(astuple(self), dtype=torch.int64, device=device)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Counts:
        """The inverse of `to_tensor`."""
        return cls(*(int(value) for value in tensor.tolist()))


def count_items(batch: PolicyBatch) -> Counts:
    """What this batch adds to each denominator; raises ValueError for a batch without a mask."""
    if batch.mask is None:
        raise ValueError("counting a batch needs its mask: 1 on tokens that are trained on")
    mask = batch.mask.bool()
    trained = mask.any(-1)
    pairs = chosen_tokens = 0
    if batch.chosen is not None and batch.rejected is not None:
        is_whole = trained[batch.chosen] & trained[batch.rejected]
        pairs = int(is_whole.sum())
        chosen_tokens = int(mask[batch.chosen][is_whole].sum())
    return Counts(int(mask.sum()), int(trained.sum()), pairs, chosen_tokens)


def reduce(loss: LossOutput, counts: Counts) -> Float[Tensor, ""]:
    """sum over terms of weight * sum(values) / global count of what the term is per (>= 1)."""
    if not loss.terms:
        raise ValueError("a loss needs at least one term")
    denominators = asdict(counts)
    parts = [
        term.weight * term.values.sum() / max(1, denominators[term.per]) for term in loss.terms
    ]
    return torch.stack(parts).sum()


def aggregate(
    values: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    how: Aggregation,
    *,
    constant: float | None = None,
) -> Term:
    """Token losses as a term whose reduction is the named aggregate.

    Two sequences of 2 and 4 tokens with token losses 1 and 2: token_mean (2 + 8) / 6 = 1.666667,
    sequence_mean (1 + 2) / 2 = 1.5, constant 8: (2/8 + 8/8) / 2 = 0.625.
    """
    if how == "token_mean":
        return Term(torch.where(mask, values, 0.0), "token")
    if how == "sequence_mean":
        return Term(average_tokens(values, mask), "sequence")
    if how == "sequence_sum":
        return Term(sum_tokens(values, mask), "sequence")
    check_aggregation(how, constant)
    return Term(sum_tokens(values, mask) / (constant or 1.0), "sequence")


def check_aggregation(how: Aggregation, constant: float | None) -> None:
    """Raises ValueError unless a constant (> 0) is given exactly where it is used."""
    if how == "constant" and (constant is None or constant <= 0):
        raise ValueError(
            "aggregation constant divides by `constant`: set it > 0 (usually max_new_tokens)"
        )
    if how != "constant" and constant is not None:
        raise ValueError(f"constant is used only by aggregation: constant, not by {how}")


def sum_metrics(metrics: Mapping[str, Tensor | Ratio]) -> dict[str, Float[Tensor, " 2"]]:
    """(numerator, denominator) of each metric: add over micro-batches and ranks, then divide.

    For per-item values these are the sum and the number of items that are not NaN.
    """
    sums: dict[str, Tensor] = {}
    for name, metric in metrics.items():
        if isinstance(metric, Ratio):
            above, below = metric.numerators.double().sum(), metric.denominators.double().sum()
        else:
            is_counted = ~torch.isnan(metric)
            above = torch.where(is_counted, metric, 0.0).double().sum()
            below = is_counted.double().sum()
        sums[name] = torch.stack([above, below])
    return sums
