"""`python -m align.launch.init`: makes the policy that the recipe's `policy.config` describes."""

import argparse
import sys

from align.launch.process import run_step
from align.records import derive_seed
from align.stages.folder import RunFolder
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    from align.models import make_policy

    policy = run.recipe.policy
    for step in steps:
        if policy is not None:
            make_policy(
                policy, run.folder(step.name), derive_seed(run.recipe.run.seed, "init") % 2**31
            )


def main() -> int:
    return run_step("init", work)


if __name__ == "__main__":
    sys.exit(main())
