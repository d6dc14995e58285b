"""Launched on two CPU processes, builds a trainer without a backend, as a plain script would, and
lets the guard look at it.
"""

import sys

import torch
from transformers import Trainer, TrainingArguments

from align.errors import LaunchMismatch
from align.training.guards import check_trainer


def main() -> int:
    trainer = Trainer(
        torch.nn.Linear(1, 1), TrainingArguments(sys.argv[1], use_cpu=False, report_to="none")
    )
    print(f"believes to be {trainer.accelerator.num_processes} of 2", flush=True)
    try:
        check_trainer(trainer)
    except LaunchMismatch as error:
        print(error, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
