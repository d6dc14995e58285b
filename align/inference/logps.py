"""Log-probs of completions given prompts, without gradient, many rows at a time.

One numerics serves cached references, recomputed samplers, the KL of evaluation and, with gradient,
the trained policy: the softmax is in float32 and only positions that score a completion token reach
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from align.inference.agreement import Layout
from align.inference.cost import Cost, cut_lines
from align.inference.head import core, forward_packed, install_head
from align.inference.packing import (
    Line,
    TokenRow,
    count_completions,
    line_length,
    pack_rows,
    renumbered,
)
from align.inference.plain import accepts_logits_to_keep, forward_plain

TOKEN_BUDGET = 16_384
"""Padded tokens that one forward without gradient takes."""


@torch.no_grad()
def completion_logps(
    model: torch.nn.Module,
    rows: Sequence[TokenRow],
    *,
    pad_id: int,
    layout: Layout = "plain",
    token_budget: int = TOKEN_BUDGET,
    keeps_logits: bool | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Each row's log-probs (its completion's length, float32, on the CPU), in the rows' order,
    without gradient.

    `layout` is one that `find_layout` found right for the model. Lines of similar length are
    forwarded together, at most `token_budget` padded tokens at once; `on_batch` is told how many
    rows a forward finished. `keeps_logits` is for a model in a wrapper, which hides what it
    accepts, in the layout `plain`.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    if layout != "plain":
        install_head(model)
    elif keeps_logits is None:
        keeps_logits = accepts_logits_to_keep(model)
    cost = Cost.of(core(model).config) if layout == "groups" else None
    lines = cut_lines(rows, cost)
    result: list[Tensor] = [torch.empty(0)] * len(rows)
    for batch in batches_of_lines(rows, lines, token_budget):
        members = [member for line in batch for group in line for member in group]
        packed = pack_rows([rows[m] for m in members], renumbered(batch), pad_id).to(device)
        if layout == "plain":
            outputs = forward_plain(model, packed, keeps_logits=bool(keeps_logits))
        else:
            outputs = forward_packed(model, packed)
        for member, values in zip(members, outputs.logps.cpu(), strict=True):
            result[member] = values[: len(rows[member].completion_ids)].clone()
        if on_batch is not None:
            on_batch(len(members))
    model.train(was_training)
    return result


def batches_of_lines(
    rows: Sequence[TokenRow], lines: Sequence[Line], token_budget: int
) -> list[list[Line]]:
    """The lines in batches of similar length; those that share a prompt apart from those that do
    not, which need no mask.
    """
    batches: list[list[Line]] = []
    for is_shared in (True, False):
        own = [line for line in lines if (count_completions(line) > 1) == is_shared]
        lengths = [line_length(rows, line) for line in own]
        batches += [
            [own[index] for index in batch] for batch in batches_by_length(lengths, token_budget)
        ]
    return batches


def batches_by_length(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that a batch that does not fit fails
    at once.

    >>> batches_by_length([2, 5, 3], token_budget=6)
    [[1], [2, 0]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
