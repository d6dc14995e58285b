"""Scores of a sequence classifier for prompt groups: its base runs once a line, its head reads the
last token of each completion.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from align.errors import SetupError
from align.inference.agreement import FAILURES, MEAN_TOLERANCE, TOLERANCE, probe_rows
from align.inference.encoders import encoder_scores, is_encoder
from align.inference.head import core
from align.inference.packing import PackedRows, TokenRow, pack_rows, single_lines
from align.inference.visibility import attention

_LOGGER = logging.getLogger(__name__)


@torch.no_grad()
def forward_scores(model: torch.nn.Module, rows: PackedRows) -> Float[Tensor, " N"]:
    """The raw logit at each row's last token, or of an encoder's own head, float32; rows were
    packed with `whole`.
    """
    inner = core(model)
    if is_encoder(inner.config):
        return encoder_scores(inner, rows)
    dtype = cast(Tensor, inner.get_input_embeddings().weight).dtype
    kwargs: dict[str, object] = {}
    if rows.shares_prompts:
        kwargs["attention_mask"] = attention(inner.config, rows, dtype)
        kwargs["position_ids"] = rows.positions
    base = cast(PreTrainedModel, inner.base_model)
    hidden = base(input_ids=rows.input_ids, use_cache=False, **kwargs).last_hidden_state
    last = hidden.flatten(0, 1).index_select(0, rows.last)
    return inner.get_submodule("score")(last)[:, 0].float()


@torch.no_grad()
def shares_prompts(model: torch.nn.Module, rows: Sequence[TokenRow], pad_id: int) -> bool:
    """Whether scores of these rows do not change where their prompts are shared; says in the log if
    they do.
    """
    name = type(core(model)).__name__
    probe = probe_rows(rows)
    device = next(model.parameters()).device
    if is_encoder(core(model).config):
        _check_padding(model, probe, pad_id, device)
        _LOGGER.warning("%s reads a text both ways, so it scores a row at a time", name)
        return False
    together, apart = (
        pack_rows(probe, lines, pad_id, whole=True).to(device)
        for lines in ([[list(range(len(probe)))]], single_lines(len(probe)))
    )
    outputs = model(input_ids=apart.input_ids, attention_mask=(apart.group >= 0).long())
    expected = outputs.logits[:, 0].float()
    try:
        gap = float((forward_scores(model, together) - expected).abs().max())
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if gap <= _limit(model, expected):
            return True
        reason = f"a score differs by {gap:.2g}"
    _LOGGER.warning("%s cannot score groups (%s); it scores a row at a time", name, reason)
    return False


def _check_padding(
    model: torch.nn.Module, rows: Sequence[TokenRow], pad_id: int, device: torch.device
) -> None:
    """Raises `SetupError` where an encoder's score moves with the padding behind it (FNet has no
    mask).
    """
    together = pack_rows(rows, single_lines(len(rows)), pad_id, whole=True).to(device)
    alone = [pack_rows([row], single_lines(1), pad_id, whole=True).to(device) for row in rows]
    expected = torch.cat([encoder_scores(model, row) for row in alone])
    gap = float((encoder_scores(model, together) - expected).abs().max())
    if gap > _limit(model, expected):
        raise SetupError(
            f"{type(core(model)).__name__} lets padding move its scores (by {gap:.2g}), so they "
            "would depend on the batch; use another encoder, e.g. a DeBERTa or ModernBERT"
        )


def _limit(model: torch.nn.Module, expected: Tensor) -> float:
    """By how much scores may differ."""
    limit = TOLERANCE if core(model).dtype == torch.float32 else MEAN_TOLERANCE
    return limit * max(1.0, float(expected.abs().max()))
