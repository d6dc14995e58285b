"""Which place of a packed line sees which: as a rule, as a dense mask, and as blocks for flex
attention.

A token sees what stands at or before it in its line, if that belongs to the same group and is
either the prompt or of the same completion; with a sliding window, only what is less than a window
before it in position, not in place. Padding sees padding, so that no softmax is over nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedConfig

from align.inference.packing import PackedRows

KINDS = frozenset({"full_attention", "sliding_attention"})
"""Layer types (`config.layer_types`) whose masks are known here."""

Attention = Tensor | BlockMask
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(line, head, query place, key place) -> whether the key is seen; what flex attention calls a
`mask_mod`.
"""


def windows(config: PreTrainedConfig) -> dict[str, int | None] | None:
    """The window of each kind of layer that the model has, None where it sees everything; None
    altogether where a kind is unknown.
    """
    values = vars(config.get_text_config())
    window = values.get("sliding_window")
    kinds = values.get("layer_types")
    if kinds is None:
        return {"full_attention": window if isinstance(window, int) else None}
    if not set(kinds) <= KINDS:
        return None
    return {
        kind: window if kind == "sliding_attention" and isinstance(window, int) else None
        for kind in sorted(set(kinds))
    }


def rule(rows: PackedRows, window: int | None) -> Rule:
    """The rule of the head of this file, over the rows' tensors."""
    group, branch, positions = rows.group, rows.branch, rows.positions

    def sees(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (group[line, query] == group[line, key])
        seen = seen & ((branch[line, key] == 0) | (branch[line, key] == branch[line, query]))
        if window is not None:
            seen = seen & (positions[line, query] - positions[line, key] < window)
        return seen

    return sees


def visible(rows: PackedRows, window: int | None = None) -> Bool[Tensor, "B L L"]:
    """The rule for every pair of places (query, key)."""
    places = torch.arange(rows.input_ids.shape[1], device=rows.input_ids.device)
    seen = rows.group[:, :, None] == rows.group[:, None, :]
    seen &= places[:, None] >= places[None, :]
    other = rows.branch[:, None, :]
    seen &= (other == 0) | (other == rows.branch[:, :, None])
    if window is not None:
        seen &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
    return seen


def attention(
    config: PreTrainedConfig, rows: PackedRows, dtype: torch.dtype
) -> Attention | Mapping[str, Attention]:
    """What the decoder takes as `attention_mask`: one mask, or one a layer type where layers mix.

    Blocks where the model attends by flex, else additive floats: booleans are silently wrong under
    eager attention. Raises `ValueError` for a model whose kinds of layers are not known.
    """
    found = windows(config)
    if found is None:
        raise ValueError(f"{type(config).__name__} has kinds of layers that no mask is known for")
    is_flex = config._attn_implementation == "flex_attention"
    masks: dict[str, Attention] = {
        kind: blocks(rows, window) if is_flex else _additive(visible(rows, window), dtype)
        for kind, window in found.items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def blocks(rows: PackedRows, window: int | None = None) -> BlockMask:
    """The rule as blocks, so that what no completion shares is skipped."""
    lines, length = rows.input_ids.shape
    device = rows.input_ids.device
    return create_block_mask(rule(rows, window), lines, None, length, length, device=device)


def _additive(seen: Bool[Tensor, "B L L"], dtype: torch.dtype) -> Float[Tensor, "B 1 L L"]:
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, float("-inf"))[:, None]
