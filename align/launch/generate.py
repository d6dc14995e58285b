"""`python -m align.launch.generate`: samples completions shard by shard."""

import argparse
import sys

from align.launch.lifeline import leave
from align.launch.process import run_worker
from align.stages.commands import visible_devices
from align.stages.engine import Engine
from align.stages.folder import RunFolder
from align.stages.generating import generate
from align.stages.steps import Step


def main() -> int:
    engine: Engine | None = None

    def work(
        run: RunFolder, steps: list[Step], arguments: argparse.Namespace
    ) -> tuple[list[str], bool]:
        nonlocal engine
        if engine is None:
            engine = Engine(run.out / "logs" / "engine.log", stays=arguments.stay)
        generate(run, steps, engine, arguments.worker)
        return engine.take_notes(), arguments.stay and engine.rest()

    status = 1
    try:
        status = run_worker("generate", work)
    finally:
        if status == 0 and not visible_devices():
            leave()  # an engine in this very process needs no farewell, which takes seconds
        if engine is not None:
            engine.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
