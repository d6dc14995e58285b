"""What vLLM must be told before it starts: environment, engine arguments, and what it would fail on
later.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from align.errors import SetupError
from align.recipe.architecture import CPU_HEAD_SIZES, head_size, lacks_kernel, number

MAX_SEQUENCES = 256
"""Requests decoded together unless `engine: {max_num_seqs: ...}` says otherwise."""
_CPU_BLOCK = 128
_GIB = 1 << 30
OWNED = {
    "model": "the policy of the recipe",
    "tokenizer": "the policy of the recipe",
    "dtype": "policy.dtype",
    "trust_remote_code": "policy.trust_remote_code",
    "tensor_parallel_size": "tensor_parallel",
    "max_model_len": "max_model_len",
    "enable_lora": "the adapter of the weights",
    "max_lora_rank": "the adapter of the weights",
    "logprobs_mode": "align (log-probs must be those of the distribution sampled from)",
    "worker_extension_cls": "align (weight reloads need it)",
    "skip_tokenizer_init": "align (stop strings need the tokenizer)",
    "disable_log_stats": "align",
    "seed": "align (every sample has its own)",
}
"""Fields of `EngineArgs` that are not the user's, and who sets them."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to start vLLM."""

    dtype: str = "float32"
    tensor_parallel: int = 1
    max_model_len: int | None = None
    """Tokens of prompt and completion together; None: the model's own context."""
    trust_remote_code: bool = False
    sleeps: bool = False
    """Whether the engine must be able to give back the accelerator's memory between stages."""
    seed: int = 0
    """Of the engine's own generator, from which requests without a seed draw."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further fields of vLLM's `EngineArgs`, verbatim."""


def on_cpu() -> bool:
    """Whether vLLM will run on the CPU here."""
    return not torch.cuda.is_available()


def vllm_environment() -> dict[str, str]:
    """What every vLLM of ours reads from the environment, unless the user has set it."""
    found = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if on_cpu():
        # Pinning would put every vLLM of this machine on the same cores, and this very process
        # with it.
        found["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return found


def prepare_environment(options: EngineOptions) -> None:
    """Sets what vLLM reads from the environment; to be called before it is imported. What a user
    has set stays.
    """
    for name, value in vllm_environment().items():
        os.environ.setdefault(name, value)
    if on_cpu() and options.tensor_parallel == 1:
        # A sub-process engine takes ten times as long to start; the stage is a process of its own
        # already.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def engine_arguments(folder: Path, options: EngineOptions) -> dict[str, object]:
    """Keyword arguments of `vllm.LLM` for the checkpoint in `folder`, adapters aside.

    Raises `SetupError` where an extra key is ours, unknown to vLLM, or cannot work on the CPU.
    """
    check_extra(options.extra)
    arguments: dict[str, object] = {
        "model": str(folder),
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel,
        "max_model_len": options.max_model_len,
        "trust_remote_code": options.trust_remote_code,
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": "align.inference.vllm_worker.WeightSync",
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        "max_num_seqs": MAX_SEQUENCES,
        "seed": options.seed,
    }
    if on_cpu():
        arguments |= cpu_arguments(folder, options)
    elif options.sleeps:
        arguments["enable_sleep_mode"] = True
    return arguments | dict(options.extra)


def check_extra(
    extra: Mapping[str, object],
    where: str = "generate.engine",
    owned: Mapping[str, str] = OWNED,
) -> None:
    """Raises `SetupError` where a key of the section `where` is set by us or is no field of vLLM's
    `EngineArgs`.
    """
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for key in extra:
        if key in owned:
            raise SetupError(f"{where}.{key} is set by {owned[key]}; remove it")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "remove it"
            raise SetupError(f"{where}.{key} is not an option of vLLM's EngineArgs; {hint}")
    if on_cpu() and extra.get("enable_chunked_prefill"):
        raise SetupError(
            f"{where}.enable_chunked_prefill cannot be true on the CPU: vLLM fails on seeded "
            "requests there; remove it"
        )


def check_head_size(folder: Path) -> None:
    """Raises `SetupError` where vLLM's CPU attention has no kernel for the checkpoint's heads."""
    if not on_cpu():
        return
    config = read_text_config(folder)
    if not lacks_kernel(config):
        return
    sizes = ", ".join(str(known) for known in CPU_HEAD_SIZES)
    raise SetupError(
        f"{folder}/config.json: vLLM's CPU attention cannot run heads of {head_size(config)} "
        f"dimensions (it takes {sizes}); "
        "use generate: {name: transformers}, or a model with heads of 32"
    )


def read_text_config(folder: Path) -> dict[str, object]:
    """config.json, or its part on text where the model also takes other inputs."""
    path = folder / "config.json"
    if not path.is_file():
        raise SetupError(f"{folder} holds no config.json, so it is not a checkpoint")
    config = json.loads(path.read_text())
    return config.get("text_config", config)


def cpu_arguments(folder: Path, options: EngineOptions) -> dict[str, object]:
    """Engine arguments without which vLLM's CPU build fails or takes too much memory."""
    config = read_text_config(folder)
    length = (
        options.max_model_len or number(config, "max_position_embeddings", "n_positions") or 2048
    )
    arguments: dict[str, object] = {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, length),
    }
    if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        arguments["kv_cache_memory_bytes"] = _cache_bytes(config, options, length)
    return arguments


def _cache_bytes(config: Mapping[str, object], options: EngineOptions, length: int) -> int:
    """Room for all concurrent sequences at full length within 1 GiB, and for one in any case."""
    layers = number(config, "num_hidden_layers", "n_layer") or 1
    heads = number(config, "num_key_value_heads", "num_attention_heads", "n_head") or 1
    width = 4 if options.dtype == "float32" else 2
    token = 2 * layers * heads * (head_size(config) or 128) * width
    blocks = -(-length // _CPU_BLOCK) + 1
    sequence = blocks * _CPU_BLOCK * token
    wanted = options.extra.get("max_num_seqs")
    sequences = wanted if isinstance(wanted, int) else MAX_SEQUENCES
    return max(sequence, min(sequences * sequence, _GIB))
