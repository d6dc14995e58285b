"""Which layouts a model can be forwarded in: tried out on a few rows, not looked up in a list.

A model that carries a state along the line (Mamba), or adds its own bias to the mask (MPT), or
scales its logits in a way not known here, gives other log-probs than its plain forward; it is then
forwarded another way, never wrongly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from align.inference.head import core, forward_packed, install_head
from align.inference.packing import Line, TokenRow, by_prompt, pack_rows, single_lines
from align.inference.plain import accepts_logits_to_keep, forward_plain

Layout = Literal["groups", "rows", "plain"]
"""`groups`: a prompt once for all its completions; `rows`: a prompt for each; `plain`: the same,
through the model's own forward and all its logits.
"""

TOLERANCE = 1e-4
"""Largest difference of a token's log-prob in float32."""
MEAN_TOLERANCE = 0.05
"""Largest mean difference in 16-bit types, whose errors are 0.02 to 0.03 a token (ALGORITHMS 0.3).
"""
FAILURES = (IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model raises that cannot take the mask or the positions."""
_LOGGER = logging.getLogger(__name__)


def probe_rows(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Three rows of one prompt, the longest row among them: no window or chunk of attention that
    matters for these rows is too long to show.

    Where the longest row stands alone, a half of its completion is the other one.
    """
    group = max(by_prompt(rows), key=lambda members: max(len(rows[m]) for m in members))
    longest, *others = sorted((rows[member] for member in group), key=len, reverse=True)
    half = TokenRow(
        longest.prompt_ids, longest.completion_ids[: (len(longest.completion_ids) + 1) // 2]
    )
    return [half, longest, *others[:1]]


@torch.no_grad()
def find_layout(
    model: torch.nn.Module, rows: Sequence[TokenRow], pad_id: int, *, shares_prompts: bool = True
) -> Layout:
    """The best layout in which the model's log-probs of `rows` are those of its plain forward; says
    in the log why it is not `groups`.

    `rows` share a prompt (`probe_rows`). Without `shares_prompts` groups are not tried. Installs
    the head.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    dtype = core(model).dtype
    padded = pack_rows(rows, single_lines(len(rows)), pad_id).to(device)
    expected = forward_plain(model, padded, keeps_logits=accepts_logits_to_keep(model)).logps
    install_head(model)
    found: Layout = "plain"
    attempts: list[tuple[Layout, list[Line]]] = [("rows", single_lines(len(rows)))]
    if shares_prompts:
        attempts.insert(0, ("groups", [[list(range(len(rows)))]]))
    for layout, lines in attempts:
        packed = pack_rows(rows, lines, pad_id).to(device)
        reason = _try(model, lambda packed=packed: forward_packed(model, packed).logps, expected)
        if reason is None:
            found = layout
            break
        _LOGGER.warning(
            "%s cannot be forwarded in %s (%s); it falls back to %s",
            type(core(model)).__name__,
            layout,
            reason,
            "rows of a prompt and one completion" if layout == "groups" else "its own forward",
        )
    model.train(was_training)
    _LOGGER.debug("%s in %s is forwarded in %s", type(core(model)).__name__, dtype, found)
    return found


def _try(model: torch.nn.Module, forward: Callable[[], Tensor], expected: Tensor) -> str | None:
    """Why the forward is not right, None where it is."""
    inner = core(model)
    if inner.get_decoder() is inner:
        return "its decoder cannot be told from its LM head"
    try:
        found = forward()
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    gaps = (found - expected).abs()
    is_exact = inner.dtype == torch.float32
    gap, limit = (gaps.max(), TOLERANCE) if is_exact else (gaps.mean(), MEAN_TOLERANCE)
    if float(gap) <= limit:
        return None
    return f"a token's log-prob differs by {float(gap):.2g} from its own forward's"
