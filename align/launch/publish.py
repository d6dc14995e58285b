"""`python -m align.launch.publish`: publishes the run's model as its `publish` section says."""

import argparse
import sys
from pathlib import Path

from align.launch.process import run_step
from align.stages.folder import RunFolder
from align.stages.manifest import Result, write_result
from align.stages.steps import Step


def work(run: RunFolder, steps: list[Step], arguments: argparse.Namespace) -> None:
    """Publishes; `result.json` says where, and which commit."""
    from align.progress import Progress
    from align.publish.run import Target, publish_run

    section = run.recipe.publish
    for step in steps:
        if section is None:
            continue
        folder = run.folder(step.name)
        place = Path(section.folder) if section.folder is not None else None
        target = Target(section.repo, place, section.private, tuple(section.tags), section.merge)
        with Progress(folder, "publishing", total=None, unit="bytes") as bar:
            published = publish_run(run.out, target, advance=bar.advance)
        metrics = {"place": published.place, "step": published.step, "commit": published.commit}
        write_result(folder, Result({"files": len(published.files)}, metrics))


def main() -> int:
    """The exit status."""
    return run_step("publish", work)


if __name__ == "__main__":
    sys.exit(main())
