"""A causal model's forward that ends in log-probs of completion tokens instead of logits.

It is put on the model instance, so it runs inside whatever wraps the model (DDP, DeepSpeed, PEFT)
and calls the LM head as a module: adapters on the head take part, ZeRO-3 gathers its weights and
their gradients are synchronised. Only positions that score a completion token reach the head, a
chunk at a time; each chunk's logits are computed again for its gradient, so that no more than one
chunk of (positions x vocabulary) is held at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from align.inference.packing import PackedRows
from align.inference.visibility import attention
from align.ops.batch import PolicyOutputs

CHUNK_LOGITS = 2**24
"""Logits that are held at once: 64 MB in float32."""


@dataclass(frozen=True)
class LogitRule:
    """What a model does to the output of its LM head: scale, then cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> LogitRule:
        """As the config spells it: Granite divides (`logits_scaling`), Cohere and Falcon-H1
        multiply, Gemma caps by `final_logit_softcapping`.
        """
        values = vars(config.get_text_config())
        scale = float(values.get("logit_scale") or 1.0)
        scale *= float(values.get("lm_head_multiplier") or 1.0)
        scale /= float(values.get("logits_scaling") or 1.0)
        return cls(scale, values.get("final_logit_softcapping"))

    def __call__(self, logits: Tensor) -> Tensor:
        """cap * tanh(scale * logits / cap)."""
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class LogpRequest:
    """What `forward` is asked for. An object of ours, so that wrappers pass it on untouched."""

    rows: PackedRows
    needs: frozenset[str] = frozenset()
    """`entropy`, `sum_p_squared`."""
    widest: int = 0
    """Completion tokens of the rank that has most of them: under ZeRO-3 all ranks must call the
    head equally often.
    """


def core(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside an adapter's wrapper."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(PreTrainedModel, inner)


def install_head(model: torch.nn.Module) -> None:
    """Lets the model's `forward` be asked for log-probs; without `request` it is as before."""
    inner = core(model)
    if "request" not in inspect.signature(inner.forward).parameters:
        inner.forward = MethodType(_forward, inner)


def forward_packed(
    model: Callable[..., object],
    rows: PackedRows,
    *,
    needs: frozenset[str] = frozenset(),
    widest: int = 0,
) -> PolicyOutputs:
    """The model's log-probs (N, T) of the rows' completion tokens, float32, 0 on padding.

    `model` is called as a module, with whatever wraps it; `install_head` was called on the model
    inside. `needs` may ask for `entropy` and `sum_p_squared` (N, T). Logits are divided by each
    row's temperature.
    """
    found = cast(dict[str, Tensor], model(request=LogpRequest(rows, needs, widest)))
    return PolicyOutputs(**{name: rows.spread(value) for name, value in found.items()})


def _forward(
    self: PreTrainedModel, *args: object, request: LogpRequest | None = None, **kwargs: object
) -> object:
    if request is None:
        return type(self).forward(self, *args, **kwargs)
    rows = request.rows
    decoder = self.get_decoder()
    if rows.shares_prompts:
        dtype = cast(Tensor, self.get_input_embeddings().weight).dtype
        mask = attention(decoder.config, rows, dtype)
        outputs = decoder(
            input_ids=rows.input_ids,
            attention_mask=mask,
            position_ids=rows.positions,
            use_cache=False,
        )
    else:
        # what is padded stands behind every token that looks back, so no mask is needed
        outputs = decoder(input_ids=rows.input_ids, use_cache=False)
    hidden = outputs.last_hidden_state
    hidden = hidden.flatten(0, 1).index_select(0, rows.predictor)
    head = cast(torch.nn.Module, self.get_output_embeddings())
    temperature = rows.temperature[rows.row]
    return token_values(
        head,
        hidden,
        rows.targets,
        temperature if bool((temperature != 1).any()) else None,
        LogitRule.of(self.config),
        request.needs,
        chunks=count_chunks(max(request.widest, len(hidden)), self.config),
    )


def count_chunks(positions: int, config: PreTrainedConfig) -> int:
    """Chunks that so many positions need."""
    size = max(1, CHUNK_LOGITS // config.get_text_config().vocab_size)
    return max(1, -(-positions // size))


def token_values(
    head: torch.nn.Module,
    hidden: Float[Tensor, "K H"],
    targets: Int[Tensor, " K"],
    temperature: Float[Tensor, " K"] | None,
    rule: LogitRule,
    needs: frozenset[str] = frozenset(),
    *,
    chunks: int = 1,
) -> dict[str, Float[Tensor, " K"]]:
    """log softmax(rule(head(h)) / temperature)[target] in float32, and what `needs` asks for:
    `entropy` -sum p log p, `sum_p_squared` sum p^2.

    `chunks` is how often the head is called; the values and their gradients do not depend on it.
    """

    def values(hidden: Tensor, targets: Tensor, temperature: Tensor | None) -> tuple[Tensor, ...]:
        logits = rule(head(hidden).float())
        if temperature is not None:
            logits = logits / temperature[:, None]
        logps = torch.log_softmax(logits, dim=-1)
        found = [logps.gather(-1, targets[:, None]).squeeze(-1)]
        if "entropy" in needs:
            found.append(-(logps.exp() * logps).sum(-1))
        if "sum_p_squared" in needs:
            found.append((2 * logps).exp().sum(-1))
        return tuple(found)

    names = ["logps", *(name for name in ("entropy", "sum_p_squared") if name in needs)]
    if chunks == 1:
        return dict(zip(names, values(hidden, targets, temperature), strict=True))
    parts = zip(
        hidden.tensor_split(chunks),
        targets.tensor_split(chunks),
        [None] * chunks if temperature is None else temperature.tensor_split(chunks),
        strict=True,
    )
    if torch.is_grad_enabled():
        found = [checkpoint(values, *part, use_reentrant=False) for part in parts]
    else:
        found = [values(*part) for part in parts]
    return {
        name: torch.cat(column)
        for name, column in zip(names, zip(*found, strict=True), strict=True)
    }
