"""Checks that the processes which run are those that were asked for, and stay one model (DESIGN
I6).

Two hazards make this necessary (both exit 0 and save a model): without a backend two CPU processes
each believe to be alone, and FSDP2 is never applied on a CPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from datasets import disable_progress_bars
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from align.errors import LaunchMismatch, NumericsError
from align.training.usable import shown
from align.training.wrapping import inner_model


def join_launch(processes: int | None = None) -> PartialState:
    """Joins the process group of the launch and returns its state; call before any weights are
    loaded.

    `processes` is the number asked for, if the caller knows it. Raises `LaunchMismatch`.
    """
    # the step draws its own; these would be one a rank
    disable_progress_bar()
    disable_progress_bars()
    has_cuda = torch.cuda.is_available()
    if _asked("ACCELERATE_USE_FSDP") and not has_cuda:
        raise LaunchMismatch(
            "FSDP2 is never applied on the CPU; use accelerate_configs/zero2.yaml or cpu.yaml"
        )
    if _asked("ACCELERATE_USE_DEEPSPEED") and not has_cuda:
        _skip_shared_memory_op()
    if not has_cuda:
        # accelerate would name the device cpu:0, which torch cannot load an optimizer's state to
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    backend = process_backend()
    kwargs = {} if backend is None else {"backend": backend}
    state = PartialState() if has_cuda else PartialState(cpu=True, **kwargs)
    check_processes(state.num_processes, processes)
    return state


def check_processes(running: int, processes: int | None = None) -> None:
    """Raises `LaunchMismatch` unless `running` processes form one group and were asked for."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if running != launched:
        raise LaunchMismatch(
            f"{launched} processes were launched but this one trains with {running}: they would "
            "not share gradients; the backend is missing (gloo on the CPU)"
        )
    if processes is not None and running != processes:
        raise LaunchMismatch(
            f"{processes} processes were asked for but {running} run; look at num_processes"
        )


def check_trainer(trainer: Trainer, processes: int | None = None) -> None:
    """Raises `LaunchMismatch` unless the trainer is distributed as the launch asked for."""
    accelerator = trainer.accelerator
    check_processes(accelerator.num_processes, processes)
    kind = accelerator.distributed_type
    if _asked("ACCELERATE_USE_DEEPSPEED"):
        wanted = {DistributedType.DEEPSPEED}
    elif _asked("ACCELERATE_USE_FSDP"):
        wanted = {DistributedType.FSDP}
    elif accelerator.num_processes > 1:
        wanted = {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
    else:
        wanted = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
    if kind not in wanted:
        names = " or ".join(sorted(item.value for item in wanted))
        raise LaunchMismatch(f"the launch asked for {names} but the trainer runs as {kind.value}")


def zero_stage(trainer: Trainer) -> int:
    """The stage of DeepSpeed's ZeRO, 0 without DeepSpeed."""
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return 0 if plugin is None else int(plugin.zero_stage)


def parameter_hash(model: torch.nn.Module, *, sharded: bool) -> str:
    """A hash of the parameters as this rank sees them; under ZeRO-3 (`sharded`) each is gathered
    for it in turn.

    Bits are summed as integers, so equal parameters have equal hashes whatever the order of
    summation.
    """
    sums: list[str] = []
    for parameter in model.parameters():
        if sharded:
            from deepspeed.runtime.zero import GatheredParameters

            with GatheredParameters([parameter]):
                sums.append(_bit_sum(parameter.data))
        else:
            sums.append(_bit_sum(parameter.data))
    return ",".join(sums)


def _bit_sum(values: torch.Tensor) -> str:
    kind = {4: torch.int32, 2: torch.int16, 8: torch.int64, 1: torch.int8}[values.element_size()]
    bits = values.detach().contiguous().view(kind).flatten().to(torch.int64)
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    return f"{int((bits * places).sum()) & 0xFFFFFFFFFFFFFFFF:x}"


def _skip_shared_memory_op() -> None:
    """Lets DeepSpeed talk over gloo alone: its shared-memory all-reduce is compiled at the first
    CPU run (1 to 3 minutes).

    Nothing else of ZeRO needs a compiler there, and for models that train on a CPU the operation
    gains nothing.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def process_backend() -> str | None:
    """The backend to name on this machine: `gloo` on the CPU in a launched process, else the
    library's own choice.
    """
    is_launched = "LOCAL_RANK" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1
    return "gloo" if is_launched and not torch.cuda.is_available() else None


class SameParameters(TrainerCallback):
    """After the first optimizer step, all ranks must hold the same parameters."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._is_checked = False

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Compares once; raises `LaunchMismatch` on every rank where they differ."""
        if self._is_checked or self._trainer.accelerator.num_processes == 1:
            return
        self._is_checked = True
        own = parameter_hash(inner_model(self._trainer), sharded=zero_stage(self._trainer) == 3)
        hashes = gather_object([own])
        if len(set(hashes)) != 1:
            raise LaunchMismatch(
                f"after step {state.global_step} the {len(hashes)} ranks hold "
                f"{len(set(hashes))} different models: gradients are not synchronised"
            )


class FiniteLoss(TrainerCallback):
    """Ends a training whose loss is NaN or infinite: what it would save is no model."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Raises `NumericsError`, on every rank."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise NumericsError(
                f"the loss is {loss} at step {state.global_step}; lower args.learning_rate, or "
                "train in float32 to tell whether 16 bits overflow"
            )


def check_finite(value: torch.Tensor, what: str, rows: list[str]) -> None:
    """Raises `NumericsError` naming the rows if `value` is NaN or infinite."""
    if not bool(torch.isfinite(value).all()):
        shown = ", ".join(rows[:8]) + (", ..." if len(rows) > 8 else "")
        raise NumericsError(
            f"{what} is {float(value.detach().float().sum())} on the rows {shown}; "
            "lower the step size"
        )


def check_all_finite(values: Sequence[torch.Tensor], what: str, names: Sequence[str]) -> None:
    """Raises `NumericsError` naming the rows of which a value is NaN or infinite."""
    if bool(torch.isfinite(torch.cat([*values, torch.empty(0)])).all()):
        return
    broken = [
        name
        for name, value in zip(names, values, strict=True)
        if not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise NumericsError(
            f"{what} of {len(broken)} of {len(names)} rows are not finite ({shown(broken)}); the "
            "weights that they come from are broken, or overflow in 16 bits: set policy.dtype: "
            "float32 to tell which"
        )
