"""Weights on disk: resumable checkpoints of a running stage, and the model that a finished one
leaves.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from align.data.fingerprint import local_folder
from align.data.splits import is_note
from align.errors import RecipeError, StageError
from align.inference.probe import FILE_NAME as PROBE_NAME
from align.models import DTYPES, load_causal
from align.recipe.sections import Options, Policy
from align.records import WeightsRef
from align.training.checksums import damaged
from align.training.quantization import quantized_config, ready_for_adapter
from align.training.wrapping import inner_model

logger = logging.getLogger(__name__)

NEED_CUDA = ("flex_attention", "flash_attention_2")
"""Kernels; flex attention on packed rows brings torch down on a CPU (STACK.md)."""
MARKER = "complete"
"""Written into a checkpoint when every rank has written its share; one without it is ignored."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage that was stopped, or None."""
    found = [
        (int(match.group(1)), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / MARKER).is_file()
    ]
    return max(found)[1] if found else None


def drop_broken_checkpoints(folder: Path) -> int:
    """Deletes checkpoints that were being written when the stage was killed, and those whose files
    are not what was written; returns how many were damaged so. One process calls it.
    """
    found = 0
    for path in list(folder.glob("checkpoint-*")):
        if (path / MARKER).is_file():
            wrong = _damage(path)
            if wrong is None:
                continue
            logger.warning("%s is damaged (%s) and is not used", path, wrong)
            found += 1
        shutil.rmtree(path)
    return found


def _damage(checkpoint: Path) -> str | None:
    try:
        sums = json.loads((checkpoint / MARKER).read_text())["checksums"]
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} cannot be read"
    names = damaged(checkpoint, sums)
    return f"{names[0]} holds other bytes than were written" if names else None


def load_policy(
    weights: WeightsRef,
    policy: Policy,
    *,
    dtype: str | None = None,
    device: torch.device | None = None,
    is_trainable: bool = False,
) -> PreTrainedModel | PeftModel:
    """A language model under the recipe's options of the policy, in its type unless `dtype` says
    another, on `device` (quantised ones stay where they are).

    Raises `RecipeError` for a kernel that needs CUDA where there is none.
    """
    if policy.attention in NEED_CUDA and not torch.cuda.is_available():
        raise RecipeError(
            f"{policy.attention} needs CUDA, which this machine does not have",
            key="policy.attention",
            remedy="set it to sdpa, or leave it out",
        )
    quantization = quantized_config(policy)
    model = load_causal(
        weights,
        dtype=dtype or policy.dtype,
        trust_remote_code=policy.trust_remote_code,
        is_trainable=is_trainable,
        quantization=quantization,
        attention=policy.attention,
    )
    if device is not None and quantization is None:
        # through torch's own signature: transformers narrows it to what `to` takes for its models
        torch.nn.Module.to(model, device)
    return model


def load_trainable(
    weights: WeightsRef, policy: Policy, *, dtype: str, seed: int
) -> PreTrainedModel | PeftModel:
    """The policy to train: all weights, or with `policy.peft` an adapter (the one of `weights`,
    else a new one).

    A new adapter is drawn from `seed` and changes nothing at first, so the policy starts as its
    base.
    """
    model = load_policy(weights, policy, dtype=dtype, is_trainable=True)
    if policy.quantization is not None:
        model = ready_for_adapter(model)
    if weights.adapter is not None or policy.peft is None:
        return model
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return with_new_adapter(model, {"task_type": "CAUSAL_LM", **policy.peft})


def with_new_adapter(model: PreTrainedModel | PeftModel, options: Options) -> PeftModel:
    """The model with an adapter that is drawn from the random state. Raises `RecipeError` where
    PEFT refuses the options, e.g. modules that the model has not.
    """
    try:
        config = LoraConfig(**options)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise RecipeError(f"is refused by peft.LoraConfig: {error}", key="policy.peft") from error
    try:
        return cast(PeftModel, get_peft_model(cast(PreTrainedModel, model), config))
    except ValueError as error:
        ends = {name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)}
        raise RecipeError(
            f"is refused by PEFT: {str(error).strip().splitlines()[0]}",
            key="policy.peft",
            remedy=f"the linear layers of this model are {', '.join(sorted(ends))}",
        ) from error


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def disable_dropout(model: torch.nn.Module) -> None:
    """Sets every dropout to 0: cached and trained log-probs must be of one function."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def save_model(
    trainer: Trainer, out: Path, tokenizer: PreTrainedTokenizerBase, *, dtype: str = "float32"
) -> None:
    """Writes model (or adapter) and tokenizer into `out`. Every rank calls it; the main process
    writes.

    Shards of ZeRO-3 are gathered; a tied LM head is stored once (ZeRO-2's state holds it twice,
    STACK.md).
    """
    state = cast(dict[str, torch.Tensor], trainer.accelerator.get_state_dict(trainer.model_wrapped))
    if trainer.is_world_process_zero():
        model = cast(
            PreTrainedModel | PeftModel, trainer.accelerator.unwrap_model(inner_model(trainer))
        )
        all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tied = all_names - {name for name, _ in model.named_parameters()}
        kept = {
            name: value.to(DTYPES[dtype]) if value.is_floating_point() else value
            for name, value in state.items()
            if name not in tied
        }
        model.save_pretrained(str(out), state_dict=kept)
        if not isinstance(model, PeftModel):
            # it would otherwise name the type that was trained in
            model.config.dtype = DTYPES[dtype]
            model.config.save_pretrained(out)
        (out / "README.md").unlink(missing_ok=True)  # PEFT's empty card, with this machine's path
        tokenizer.save_pretrained(out)
    trainer.accelerator.wait_for_everyone()


def ema_weights(previous: WeightsRef, new: WeightsRef, decay: float, folder: Path) -> WeightsRef:
    """Writes `decay * previous + (1 - decay) * new` into `folder` and returns it; tensor by tensor
    in float32. What a stage noted beside `new`, its manifest and probe say, is true of that alone.

    Raises `StageError` where the two are not of one shape or have different bases.
    """
    if not 0 <= decay <= 1 or math.isnan(decay):
        raise StageError(f"an average's decay must be in [0, 1], not {decay}")
    if (previous.adapter is None) != (new.adapter is None) or (
        new.adapter and previous.base != new.base
    ):
        raise StageError(
            f"{previous} and {new} cannot be averaged: both must be full weights or adapters of "
            "one base"
        )
    old_folder = local_folder(previous.adapter or previous.base)
    new_folder = local_folder(new.adapter or new.base)
    old_tensors, new_tensors = _tensors(old_folder), _tensors(new_folder)
    if {k: v.shape for k, v in old_tensors.items()} != {k: v.shape for k, v in new_tensors.items()}:
        raise StageError(
            f"{old_folder} and {new_folder} hold different tensors and cannot be averaged"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in new_folder.iterdir():
        if (
            path.is_file()
            and path.suffix in (".json", ".jinja", ".txt", ".model")
            and "index" not in path.name
            and path.name != PROBE_NAME
            and not is_note(path)
        ):
            shutil.copyfile(path, folder / path.name)
    mean = {
        name: (decay * old_tensors[name].float() + (1 - decay) * value.float()).to(value.dtype)
        for name, value in new_tensors.items()
    }
    name = "adapter_model.safetensors" if new.adapter else "model.safetensors"
    save_file(mean, folder / name, metadata={"format": "pt"})
    return WeightsRef(new.base, str(folder)) if new.adapter else WeightsRef(str(folder))


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }
