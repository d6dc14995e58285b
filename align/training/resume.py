"""From which checkpoint a stopped stage goes on, when it may run on other ranks than before.

What a checkpoint means does not depend on ranks (the plan of steps does not), but what is in it
may: without DeepSpeed every rank holds the whole optimizer; DeepSpeed gives each rank a part, which
its universal checkpoint can cut anew.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate.utils import DistributedType, broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.data.shards import whole_or_absent
from align.training.checkpoints import MARKER, drop_broken_checkpoints, newest_checkpoint
from align.training.checksums import checksums
from align.training.guards import zero_stage

logger = logging.getLogger(__name__)

RESTARTED = "restarted_other_ranks"
"""Name of the count, and of a file in the scratch folder that says so to a later resume."""
DAMAGED = "damaged_checkpoints"
"""The same where a checkpoint was not what had been written."""
UNIVERSAL = "universal"
"""Folder of the converted checkpoint, inside the checkpoint."""
CONVERTED = ("zero1", "zero2")
"""Kinds whose universal checkpoint is loaded rightly. DeepSpeed 0.19 gives all groups of ZeRO-3 one
step counter, which then counts too fast, and the first group's weight decay (DECISIONS 12).
"""


@dataclass(frozen=True)
class Launch:
    """What a checkpoint's files depend on."""

    ranks: int
    kind: str
    """`plain` (one process or DDP), `zero0` to `zero3`, or `fsdp`."""

    @classmethod
    def of(cls, trainer: Trainer) -> Launch:
        """The launch that the trainer runs in."""
        kind = f"zero{zero_stage(trainer)}" if trainer.is_deepspeed_enabled else "plain"
        if trainer.accelerator.distributed_type == DistributedType.FSDP:
            kind = "fsdp"
        return cls(trainer.accelerator.num_processes, kind)

    def write(self, checkpoint: Path) -> None:
        """Marks a checkpoint that all ranks have finished writing, with its files' checksums."""
        said = {**asdict(self), "checksums": checksums(checkpoint)}
        with whole_or_absent(checkpoint / MARKER) as temporary:
            temporary.write_text(json.dumps(said))

    @classmethod
    def read(cls, checkpoint: Path) -> Launch:
        """The launch that wrote a marked checkpoint."""
        said = json.loads((checkpoint / MARKER).read_text())
        return cls(said["ranks"], said["kind"])


class MarkComplete(TrainerCallback):
    """Marks each checkpoint once all ranks have finished writing it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Waits for all ranks, then writes the marker."""
        self._trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            Launch.of(self._trainer).write(folder)
        self._trainer.accelerator.wait_for_everyone()


def pick_checkpoint(trainer: Trainer, folder: Path) -> Path | None:
    """The checkpoint to go on from, or None to begin at the start; the same on every rank.

    Where ranks have changed: without DeepSpeed the checkpoint serves as it is; with it, it is
    converted to a universal one, which the trainer is told to load. Otherwise the stage starts
    again, says so, and leaves a file for `count_restarts`.
    """
    picked: list[str | None] = [None]
    now = Launch.of(trainer)
    if trainer.is_world_process_zero():
        if drop_broken_checkpoints(folder):
            (folder / DAMAGED).touch()
        found = newest_checkpoint(folder)
        usable = found is None or _make_usable(found, now)
        if found is not None and usable:
            picked = [str(found)]
        elif found is not None:
            before = Launch.read(found)
            logger.warning(
                "the stage starts again: its checkpoint %s was written by %d ranks (%s) and cannot "
                "be used by %d (%s)",
                found.name,
                before.ranks,
                before.kind,
                now.ranks,
                now.kind,
            )
            (folder / RESTARTED).touch()
            for path in folder.glob("checkpoint-*"):
                shutil.rmtree(path)
    broadcast_object_list(picked)
    if picked[0] is None:
        return None
    checkpoint = Path(picked[0])
    if Launch.read(checkpoint) != now and now.kind.startswith("zero"):
        _load_universal(trainer)
    return checkpoint


def count_restarts(folder: Path) -> dict[str, int]:
    """Counts for the manifest where the stage had to start again, or from an earlier checkpoint;
    call before the folder goes.
    """
    return {name: 1 for name in (RESTARTED, DAMAGED) if (folder / name).is_file()}


def _make_usable(checkpoint: Path, now: Launch) -> bool:
    """Whether the launch can load the checkpoint, converted where that is needed."""
    before = Launch.read(checkpoint)
    if before == now:
        return True
    if before.kind != now.kind or now.kind == "fsdp":
        return False
    return now.kind == "plain" or (now.kind in CONVERTED and _convert(checkpoint))


def _convert(checkpoint: Path) -> bool:
    """Writes DeepSpeed's universal form of a checkpoint into it; False where DeepSpeed cannot (an
    optimizer without Adam's two moments, for instance).
    """
    (steps,) = checkpoint.glob("global_step*")
    shutil.rmtree(checkpoint / UNIVERSAL, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(steps), "--output_folder", str(checkpoint / UNIVERSAL)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        logger.warning("DeepSpeed cannot convert %s: %s", checkpoint.name, lines[-1])
    return finished.returncode == 0


def _load_universal(trainer: Trainer) -> None:
    plugin = trainer.accelerator.state.deepspeed_plugin
    assert plugin is not None
    for config in (plugin.hf_ds_config.config, plugin.deepspeed_config):
        config["checkpoint"] = {"load_universal": True}
