"""QLoRA: the base in few bits, by bitsandbytes; the adapter above it is trained as ever."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from align.errors import RecipeError
from align.models import DTYPES
from align.recipe.sections import Policy


def quantized_config(policy: Policy) -> BitsAndBytesConfig | None:
    """How transformers is to load the policy's base; None where the recipe does not quantise it.

    Raises `RecipeError`, before any weights are loaded, where this machine cannot.
    """
    options = policy.quantization
    if options is None:
        return None
    lacks = [
        *(["the package bitsandbytes"] if find_spec("bitsandbytes") is None else []),
        *(["CUDA"] if not torch.cuda.is_available() else []),
    ]
    if lacks:
        raise RecipeError(
            f"needs {' and '.join(lacks)}, which this machine does not have",
            key="policy.quantization",
            remedy="pip install bitsandbytes on a machine with CUDA, or remove it: plain LoRA "
            "trains the same adapter over whole weights",
        )
    if options.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.kind,
        bnb_4bit_use_double_quant=options.double,
        bnb_4bit_compute_dtype=DTYPES[policy.dtype],
    )


def ready_for_adapter(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """A quantised base with float32 norms; gradient checkpointing stays the trainer's business."""
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
