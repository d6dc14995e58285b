"""`accelerate launch -m align.launch.sft`: supervised fine-tuning by TRL."""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.stages.training import keep, sft

    for step in steps:
        keep(run, step, sft(run, step, arguments.ranks))


def main() -> int:
    return run_step("sft", work)


if __name__ == "__main__":
    sys.exit(main())
