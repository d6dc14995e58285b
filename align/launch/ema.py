"""`python -m align.launch.ema`: moves the reference towards the newest policy (TR-DPO's soft
update).
"""

import argparse
import sys

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.training.checkpoints import ema_weights

    for step in steps:
        decay = float(str(step.section["ema"]))
        previous, new = run.weights(step.inputs["reference"]), run.weights(step.inputs["policy"])
        ema_weights(previous, new, decay, run.folder(step.name))


def main() -> int:
    return run_step("ema", work)


if __name__ == "__main__":
    sys.exit(main())
