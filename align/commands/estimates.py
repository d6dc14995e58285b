"""Rough sizes of a run before it starts: parameters, memory to train, storage."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from align.commands.amounts import Amount, samplers_of
from align.recipe.sections import Policy, Recipe
from align.stages.steps import Step

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TOKEN_BYTES = 16
"""Of a sampled token on disk, uncompressed: id, mask, log-prob and about four bytes of text."""
TRAINING_COPIES = 4
"""Weights, gradients and AdamW's two moments."""
SPECIAL_TOKENS = 4
"""Pad, begin, end and unknown, beside a character tokenizer's alphabet."""
_MODEL_KINDS = ("init", "sft", "reward", "policy", "ema")


def estimates(recipe: Recipe, steps: Sequence[Step], before: Mapping[str, Amount]) -> list[str]:
    """One line each; what cannot be known here is left out."""
    if recipe.policy is None:
        return []
    parameters = count_parameters(recipe.policy)
    lines: list[str] = []
    if parameters is not None:
        weights = parameters * BYTES[recipe.policy.dtype]
        training = weights if recipe.policy.peft else weights * TRAINING_COPIES
        suffix = ", adapter aside" if recipe.policy.peft else ""
        lines.append(f"policy: {parameters:,} parameters, {size(weights)} in {recipe.policy.dtype}")
        lines.append(
            f"memory to train: {size(training)}{suffix}, activations aside; "
            f"to sample: {size(weights)} and the KV cache"
        )
        models = sum(step.kind in _MODEL_KINDS for step in steps)
        lines.append(f"storage for models: {size(models * weights)} ({models} kept)")
    stored = sum(_sampled_tokens(steps, before)) * TOKEN_BYTES
    if stored:
        lines.append(f"storage for samples: at most {size(stored)}, prompts aside")
    return lines


def _sampled_tokens(steps: Sequence[Step], before: Mapping[str, Amount]) -> Iterator[int]:
    for step in steps:
        prompts = before[step.name].prompts if step.kind == "generate" else None
        for sampler in samplers_of(step) if prompts is not None else ():
            n, length = sampler.options.get("n", 1), sampler.options.get("max_new_tokens", 256)
            if isinstance(n, int) and isinstance(length, int) and prompts is not None:
                yield prompts * n * length


def count_parameters(policy: Policy) -> int | None:
    """Parameters, from the headers of local safetensors or from the config; None for a Hub id."""
    if policy.config is not None:
        return _parameters_of_config(policy.config, policy.tokenizer or {})
    files = sorted(Path(policy.path or "").expanduser().glob("*.safetensors"))
    return sum(_parameters_in(file) for file in files) or None


def _parameters_in(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")


def _parameters_of_config(config: Mapping[str, object], tokenizer: Mapping[str, object]) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    alphabet = tokenizer.get("alphabet")
    vocabulary = (
        {"vocab_size": len(set(alphabet)) + SPECIAL_TOKENS} if isinstance(alphabet, str) else {}
    )
    # On the meta device: shapes without memory.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config, **vocabulary}))
    return sum(each.numel() for each in model.parameters())


def size(count: int) -> str:
    """Bytes as `1.5 GB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
