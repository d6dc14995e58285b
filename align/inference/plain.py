"""The model's own forward: every logit from the shortest prompt's end on. What the other layouts
are held to, and what serves models that they do not suit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from align.inference.head import LogitRule, core, token_values
from align.inference.packing import PackedRows
from align.ops.batch import PolicyOutputs


def accepts_logits_to_keep(model: torch.nn.Module) -> bool:
    """Whether the (unwrapped) model can be asked for the logits of its last positions only."""
    return "logits_to_keep" in inspect.signature(type(core(model)).forward).parameters


def forward_plain(
    model: Callable[..., object],
    rows: PackedRows,
    *,
    keeps_logits: bool,
    needs: frozenset[str] = frozenset(),
) -> PolicyOutputs:
    """The model's log-probs (N, T) of the rows' completion tokens, float32, 0 on padding.

    Every line of `rows` holds one row. `model` is called as a module, so hooks of DDP, DeepSpeed
    and PEFT run; `keeps_logits` is what `accepts_logits_to_keep` said of the model inside.
    """
    length = rows.input_ids.shape[1]
    first = int((rows.predictor % length).min()) if len(rows.predictor) else 0
    keep = {"logits_to_keep": length - first} if keeps_logits else {}
    outputs = model(
        input_ids=rows.input_ids,
        attention_mask=(rows.group >= 0).long(),
        use_cache=False,
        **keep,
    )
    logits = cast(Tensor, outputs.logits)  # pyright: ignore[reportAttributeAccessIssue]
    logits = logits[:, logits.shape[1] - (length - first) :]
    line, place = rows.predictor // length, rows.predictor % length
    found = token_values(
        torch.nn.Identity(),
        logits.flatten(0, 1).index_select(0, line * (length - first) + place - first),
        rows.targets,
        rows.temperature[rows.row],
        LogitRule(),
        needs,
    )
    return PolicyOutputs(**{name: rows.spread(value) for name, value in found.items()})
