"""Many runs of recipes from one process that has imported the libraries.

`align run` imports them for each run, and forks its stages. Here they are imported once, and each
run is one fork that calls the same bodies in the same order and gives the same content (both are
measured by `python benchmarks/warm.py RECIPE [KEY=VALUE ...]`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

from align.errors import NumericsError
from align.launch import init
from align.launch.forks import import_libraries
from align.recipe.load import load_recipe
from align.report.screen import RichScreen
from align.stages.commands import Launch
from align.stages.engine import Engine
from align.stages.folder import RunFolder
from align.stages.generating import generate
from align.stages.making import Maker
from align.stages.manifest import read_manifest
from align.stages.run import run_recipe
from align.stages.step import Step

COLLAPSED = 3
"""Exit status of a child whose run met a `NumericsError`."""


def run_warm(
    recipe: Path, settings: Sequence[str], out: Path, then: Callable[[], None] = lambda: None
) -> bool:
    """Runs the recipe in a fork, and `then` in it; False where the policy's numbers did not stay
    finite. Raises `SystemExit` with the log's path where the run failed otherwise.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = out / "run.log"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with log.open("ab") as file:
                for descriptor in (1, 2):
                    os.dup2(file.fileno(), descriptor)
            _run_here(recipe, settings, out)
            then()
            status = 0
        except NumericsError:
            traceback.print_exc()
            status = COLLAPSED
        except BaseException:  # the child's end: its parent goes on
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, COLLAPSED):
        raise SystemExit(f"{recipe} {' '.join(settings)} ended with status {status}; see {log}")
    return status == 0


def _run_here(recipe: Path, settings: Sequence[str], out: Path) -> None:
    run = RunFolder(load_recipe(recipe, settings), out)
    screen = RichScreen(Console(quiet=True))
    with patch.object(Maker, "execute", _in_this_process):
        run_recipe(run, Launch(Path("unused.yaml")), screen)


def _in_this_process(maker: Maker, batch: Sequence[Step]) -> Sequence[str]:
    """What the processes of a batch of steps do."""
    run, kind = maker.run, batch[0].kind
    if kind == "generate":
        engine = Engine(run.out / "engine.log")
        try:
            generate(run, batch, engine)
        finally:
            engine.close()
    elif kind == "init":
        init.work(run, list(batch), argparse.Namespace())
    else:
        work = importlib.import_module(f"align.launch.{kind}").work
        work(run, list(batch), argparse.Namespace(worker=0, workers=1, ranks=None))
    return ("in the process of the benchmark",)


def compare(recipe: Path, settings: Sequence[str]) -> bool:
    """Prints the seconds of one run made both ways, and of each step; whether their contents are
    the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = Path(folder) / "cold", Path(folder) / "warm"
        words = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "-m", "align", "run", str(recipe), "--out", str(cold), *words]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = {"align run": time.monotonic() - began}
        began = time.monotonic()
        import_libraries()
        seconds["imports, once"] = time.monotonic() - began
        began = time.monotonic()
        run_warm(recipe, settings, warm)
        seconds["fork"] = time.monotonic() - began
        print(json.dumps({name: round(value, 1) for name, value in seconds.items()}))
        is_same = True
        for path in sorted(cold.glob("**/manifest.json")):
            step = path.parent.relative_to(cold)
            ours, theirs = read_manifest(warm / step), read_manifest(cold / step)
            assert ours is not None and theirs is not None
            is_same &= ours.content == theirs.content
            print(
                f"{step}: {theirs.seconds:.1f} s of which work {theirs.work:.1f} s, forked "
                f"{ours.seconds:.1f} s, {'same' if ours.content == theirs.content else 'OTHER'}"
            )
    return is_same


if __name__ == "__main__":
    sys.exit(0 if compare(Path(sys.argv[1]), sys.argv[2:]) else 1)
