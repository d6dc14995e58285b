"""Runs a recipe for real, in this process: the order of a run is the real one, only its stages are
not launched, which saves the start of a process for each.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from align.report.screen import RichScreen
from align.stages.commands import Launch
from align.stages.engine import Engine
from align.stages.folder import RunFolder
from align.stages.generating import generate
from align.stages.making import Maker
from align.stages.run import Outcome, run_recipe
from align.stages.step import Step


def in_this_process(maker: Maker, batch: Sequence[Step]) -> Sequence[str]:
    """What the launched processes of a batch do."""
    run = maker.run
    if batch[0].kind == "generate":
        engine = Engine(run.out / "engine.log")
        try:
            generate(run, batch, engine)
        finally:
            engine.close()
    else:
        work = importlib.import_module(f"align.launch.{batch[0].kind}").work
        work(run, list(batch), argparse.Namespace(worker=0, workers=1, ranks=None))
    return ("here",)


def run_in_one_process(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, redo: Sequence[str] = ()
) -> Outcome:
    """`align run`, without what it prints."""
    monkeypatch.setattr(Maker, "execute", in_this_process)
    run.out.mkdir(exist_ok=True)
    screen = RichScreen(Console(quiet=True))
    return run_recipe(run, Launch(Path("unused.yaml")), screen, redo)
