"""`accelerate launch -m align.launch.reward`: trains the recipe's reward model by TRL."""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.stages.training import keep, reward

    for step in steps:
        keep(run, step, reward(run, step, arguments.ranks))


def main() -> int:
    return run_step("reward", work)


if __name__ == "__main__":
    sys.exit(main())
