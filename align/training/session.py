"""What all trainers share once they are built: guards, progress, resume, the closing save and the
report.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils import deterministic
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from align.inference.logps import TokenRow, accepts_logits_to_keep, completion_logps
from align.inference.probe import write_probe
from align.models import pad_id
from align.progress import Progress, counted_as_work
from align.training.checkpoints import save_model
from align.training.guards import FiniteLoss, SameParameters, check_trainer
from align.training.job import Job
from align.training.metrics import TOKENS
from align.training.resume import MarkComplete, count_restarts, pick_checkpoint
from align.training.wrapping import inner_model, wrapped_model

PROBE_ROWS = 8
LOG_FILE = "log.jsonl"
"""One JSON line an optimizer step, in the step's folder."""


class StepBar(TrainerCallback):
    """The step's progress bar, on the main process."""

    def __init__(self, job: Job, label: str) -> None:
        self._job, self._label = job, label
        self._bar = Progress(None, label, total=None, unit="steps")

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Starts it where a resumed run left off."""
        folder = self._job.out if state.is_world_process_zero else None
        self._bar = Progress(folder, self._label, total=state.max_steps, unit="steps")
        self._bar.set(state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """One step more."""
        self._bar.set(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Shows the loss, and the margin where there is one."""
        shown = [
            (key, logs[key])
            for key in ("loss", "rewards/margins", "accuracy")
            if logs and key in logs
        ]
        if shown:
            self._bar.set(
                state.global_step, note="  ".join(f"{key} {value:.4g}" for key, value in shown)
            )


def seed_everything(job: Job) -> None:
    """Seeds Python, numpy and torch, and asks torch for deterministic kernels where it trains in
    float32 on the CPU.
    """
    set_seed(job.seed % 2**32)
    if not torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It would also fill every new tensor with NaN: TRL's fused loss asks for a 50 MB tile a
        # step whatever the vocabulary, and filling it took most of a small model's SFT.
        deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def run_training(
    trainer: Trainer,
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    label: str,
    *,
    before_save: Callable[[Trainer], None] | None = None,
    probe: Sequence[TokenRow] = (),
) -> dict[str, int]:
    """Trains (from the newest whole checkpoint if there is one), saves model and tokenizer, removes
    the scratch folder; returns what is to be counted.

    `before_save` sees the trained model while it is still wrapped; every rank calls it. Of the
    `probe` rows (of a causal model) a few short ones are written beside it with their log-probs,
    for whoever loads it to compare (I4).
    """
    check_trainer(trainer, job.processes)
    # logs go to trackers, the log file and the bar; this callback would print them to the screen
    trainer.remove_callback(PrinterCallback)
    guards = (SameParameters(trainer), FiniteLoss())
    for callback in (*guards, MarkComplete(trainer), StepBar(job, label)):
        trainer.add_callback(callback)
    checkpoint = pick_checkpoint(trainer, job.scratch)
    with counted_as_work(job.out if trainer.is_world_process_zero() else None):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if before_save is not None:
        before_save(trainer)
    save_model(trainer, job.out, tokenizer, dtype=job.policy_section.dtype)
    rows = [
        row for row in sorted(probe, key=len)[:PROBE_ROWS] if row.prompt_ids and row.completion_ids
    ]
    logps: list[torch.Tensor] = []
    if rows:
        logps = completion_logps(
            wrapped_model(trainer),
            rows,
            pad_id=pad_id(tokenizer),
            keeps_logits=accepts_logits_to_keep(inner_model(trainer)),
        )
    counts = count_restarts(job.scratch)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        if rows:
            write_probe(
                job.out,
                [(row.prompt_ids, row.completion_ids) for row in rows],
                [values.tolist() for values in logps],
            )
        lines = [json.dumps(entry) for entry in trainer.state.log_history if "loss" in entry]
        (job.out / LOG_FILE).write_text("".join(f"{line}\n" for line in lines))
        shutil.rmtree(job.scratch, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return counts


def summarise(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a finished job: of each logged name its last value, and of the loss also the
    first.

    The library's own closing `train_loss` is one rank's local mean and is left out (STYLE part 3,
    trap 7), and so is what a clock measured.
    """
    entries = [entry for entry in history if "loss" in entry]
    metrics: dict[str, float] = {}
    for entry in entries:
        for name, value in entry.items():
            if (
                name not in ("step", "epoch", TOKENS)
                and isinstance(value, int | float)
                and math.isfinite(value)
            ):
                metrics[name] = float(value)
    if entries:
        metrics["loss/first"] = float(entries[0]["loss"])
    return metrics
