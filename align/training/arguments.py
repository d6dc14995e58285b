"""From a recipe's section to the arguments of a Hugging Face trainer, with the keys that we own
filled in.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import TypeVar

import torch
from transformers import TrainingArguments

from align.errors import RecipeError
from align.recipe.optimizers import missing_package
from align.training.guards import process_backend
from align.training.job import Job
from align.training.plan import Shape

Arguments = TypeVar("Arguments", bound=TrainingArguments)

OWNED = {
    "output_dir": "the step's folder is given by --out",
    "seed": "set run.seed",
    "data_seed": "set run.seed",
    "full_determinism": "fp32 on the CPU is deterministic as it is",
    "per_device_train_batch_size": "set global_batch_size and micro_batch_size",
    "gradient_accumulation_steps": "set global_batch_size and micro_batch_size",
    "auto_find_batch_size": "set micro_batch_size",
    "max_length": "set max_length of the section",
    "bf16": "set policy.dtype",
    "fp16": "set policy.dtype",
    "use_cpu": "the launch decides",
    "ddp_backend": "the launch decides",
    "deepspeed": "give an accelerate config to the launch",
    "fsdp": "give an accelerate config to the launch",
    "report_to": "set run.report_to",
    "run_name": "set run.name",
    "disable_tqdm": "the step has its own progress bar",
    "save_strategy": "set save_steps",
    "logging_strategy": "set logging_steps",
    "logging_nan_inf_filter": "a loss that is not finite ends the step",
    "train_sampling_strategy": "the order of rows follows run.seed",
    "dataloader_drop_last": "the last rows of an epoch are counted",
    "resume_from_checkpoint": "a stopped step resumes by itself",
    "remove_unused_columns": "the columns are ours",
    "push_to_hub": "use the publish section",
    "hub_model_id": "use the publish section",
    "hub_token": "use the publish section",
    "hub_strategy": "use the publish section",
    "hub_private_repo": "use the publish section",
    "trust_remote_code": "set policy.trust_remote_code",
    "model_init_kwargs": "set policy.dtype and policy.config",
    "chat_template_path": "set policy.chat_template",
}
"""Keys of `args` that the pipeline fills in, and where to say it instead."""

SAVE_STEPS = 200
"""Optimizer steps between checkpoints: what a killed run loses at most."""
ACCELERATOR_MICRO_BATCH = 8
"""Rows a device forwards at once where the recipe does not say; on the CPU larger batches are
always quicker.
"""
BUCKET_ELEMENTS = 20_000_000
"""Gradients that DeepSpeed sends at once: 80 MB in float32, about DDP's bucket. Its own default,
500 million, is a buffer of 2 GB a rank, which deterministic torch also fills anew at every step.
"""


def batch_shape(job: Job, world: int) -> Shape:
    """How `global_batch_size` is cut over ranks and forwards; raises `RecipeError` where it cannot
    be exactly.
    """
    size, micro = job.section.global_batch_size, job.section.micro_batch_size
    key = f"{job.name}.global_batch_size"
    if size % world:
        below, above = size // world * world, (size // world + 1) * world
        choices = " or ".join(str(number) for number in (below, above) if number)
        raise RecipeError(
            f"{size} cannot be shared by {world} processes", key=key, remedy=f"set it to {choices}"
        )
    share = size // world
    if micro is None:
        most = ACCELERATOR_MICRO_BATCH if torch.cuda.is_available() else share
        micro = max(number for number in range(1, min(most, share) + 1) if share % number == 0)
    if share % micro:
        fitting = [number for number in range(1, share + 1) if share % number == 0]
        nearest = min(fitting, key=lambda number: (abs(number - micro), number))
        raise RecipeError(
            f"{micro} does not divide the {share} rows that each of {world} processes has of a "
            "global batch",
            key=f"{job.name}.micro_batch_size",
            remedy=f"set it to {nearest}",
        )
    return Shape(micro, share // micro, world)


def build_arguments(
    kind: type[Arguments],
    job: Job,
    shape: Shape,
    *,
    defaults: Mapping[str, object] | None = None,
    owned: Mapping[str, object] | None = None,
) -> Arguments:
    """Arguments of `kind`: our defaults, then the recipe's `args`, then the keys that we own.

    Raises `RecipeError` for a key that is owned or unknown, with the nearest valid name.
    """
    section = job.section
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in section.args:
        place = f"{job.name}.args.{key}"
        if key in OWNED:
            raise RecipeError("is filled in by the pipeline", key=place, remedy=OWNED[key])
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            remedy = (
                f'did you mean "{near[0]}"?'
                if near
                else f"see the documentation of {kind.__name__}"
            )
            raise RecipeError(f"is not an option of {kind.__name__}", key=place, remedy=remedy)
    package = missing_package(section.args.get("optim"))
    if package is not None:
        raise RecipeError(
            f"{section.args['optim']} needs the package {package}, which is not installed here",
            key=f"{job.name}.args.optim",
            remedy=f"pip install {package}, or use adamw_torch or adamw_torch_fused",
        )
    has_cuda = torch.cuda.is_available()
    dtype = job.policy_section.dtype
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.out / "tensorboard")
    values: dict[str, object] = {
        "logging_steps": 1,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "gradient_checkpointing": has_cuda,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": has_cuda,
        **(defaults or {}),
        **section.args,
        "output_dir": str(job.scratch),
        "seed": job.seed % 2**32,
        "per_device_train_batch_size": shape.micro,
        "gradient_accumulation_steps": shape.accumulation,
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "use_cpu": not has_cuda,
        "ddp_backend": process_backend(),
        "disable_tqdm": True,
        "report_to": list(job.recipe.run.report_to) or "none",
        "run_name": f"{job.recipe.run.name or 'align'}/{job.out.name}",
        **(owned or {}),
    }
    try:
        arguments = kind(**values)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"are refused by {kind.__name__}: {error}",
            key=f"{job.name}.args",
            remedy="correct the value",
        ) from error
    if arguments.deepspeed_plugin is not None and not has_cuda:
        # a DeepSpeed file that the user's accelerate configuration names keeps what it says
        zero = arguments.deepspeed_plugin.hf_ds_config.config["zero_optimization"]
        for key in ("reduce_bucket_size", "allgather_bucket_size"):
            zero.setdefault(key, BUCKET_ELEMENTS)
    return arguments
