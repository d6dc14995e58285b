"""`python -m align.launch.evaluate`: summarises held-out samples and measures the KL to the first
policy.
"""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.stages.divergence import evaluate

    for step in steps:
        evaluate(run, step)


def main() -> int:
    return run_step("evaluate", work)


if __name__ == "__main__":
    sys.exit(main())
