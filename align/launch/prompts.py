"""`python -m align.launch.prompts`: takes the prompts that came with stored samples."""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.stages.manifest import write_result
    from align.stages.prompting import take_stored_prompts

    for step in steps:
        write_result(run.folder(step.name), take_stored_prompts(run, step))


def main() -> int:
    return run_step("prompts", work)


if __name__ == "__main__":
    sys.exit(main())
