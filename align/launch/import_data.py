"""`python -m align.launch.import_data`: human data become prompts, samples, pairs and scores."""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.stages.importing import import_human_data

    for step in steps:
        import_human_data(run, step)


def main() -> int:
    return run_step("import", work)


if __name__ == "__main__":
    sys.exit(main())
