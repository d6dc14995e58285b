"""`python -m align.launch.score`: scores samples shard by shard."""

import argparse
import sys

from align.launch.process import run_worker
from align.stages.folder import RunFolder
from align.stages.sampling import score
from align.stages.steps import Step


def work(
    run: RunFolder, steps: list[Step], arguments: argparse.Namespace
) -> tuple[list[str], bool]:
    for step in steps:
        score(run, step, arguments.worker)
    return [], False


def main() -> int:
    return run_worker("score", work)


if __name__ == "__main__":
    sys.exit(main())
