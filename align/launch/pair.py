"""`python -m align.launch.pair`: pairs samples by the rule, with a judge that loads a model."""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.stages.manifest import write_result
    from align.stages.sampling import pair

    for step in steps:
        write_result(run.folder(step.name), pair(run, step))


def main() -> int:
    return run_step("pair", work)


if __name__ == "__main__":
    sys.exit(main())
