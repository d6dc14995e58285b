"""Tiny models from configs, drawn wide enough that a wrong mask shows in every log-prob."""

from __future__ import annotations

from typing import cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

BASE: dict[str, object] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW: dict[str, object] = {"sliding_window": 5}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
GPT2: dict[str, object] = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen2-mixed": ("qwen2", {**MIXED, "use_sliding_window": True}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", WINDOW),
    "gemma2": ("gemma2", {**MIXED, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "gemma3_text",
        {**MIXED, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    ),
    "phi3": ("phi3", WINDOW),
    "granite": ("granite", {"logits_scaling": 3.0}),
    "cohere": ("cohere", {}),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", {"attention_dropout": 0.0, "hidden_dropout": 0.0}),
}


def make_model(model_type: str, options: dict[str, object], *, seed: int = 0) -> PreTrainedModel:
    """A float32 model in `eval` mode."""
    config = AutoConfig.for_model(model_type, **{**BASE, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return cast(PreTrainedModel, model.eval())
