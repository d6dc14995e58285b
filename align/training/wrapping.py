"""The model of a trainer, with and without the wrapper that makes it distributed."""

from __future__ import annotations

from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer
from transformers.integrations import is_deepspeed_zero3_enabled


def inner_model(trainer: Trainer) -> PreTrainedModel:
    """The model itself (a `PeftModel` behaves like one)."""
    return cast(PreTrainedModel, trainer.model)


def wrapped_model(trainer: Trainer) -> torch.nn.Module:
    """What is called in training: hooks of DDP or DeepSpeed run, sharded weights are gathered."""
    return cast(torch.nn.Module, trainer.model_wrapped)


def announce_lm_head(trainer: Trainer) -> None:
    """Tells ZeRO-3 that the model's own forward reads the weights of its LM head, as TRL's does.

    DeepSpeed finds that out at the first forward where it has to gather them, which a resumed job
    need not, and it then fails at the first backward after ("tracing error").
    """
    if not is_deepspeed_zero3_enabled():
        return
    from deepspeed.runtime.zero import register_external_parameter

    model = inner_model(trainer)
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    head = cast(PreTrainedModel, model).get_output_embeddings()
    register_external_parameter(model, cast(torch.nn.Linear, head).weight)
