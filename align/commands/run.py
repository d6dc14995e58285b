"""`align run RECIPE`: everything the recipe describes, once; the same command resumes."""

from __future__ import annotations

import argparse
import gc
import json
import signal
import tempfile
from pathlib import Path
from types import FrameType

import yaml
from rich.console import Console

from align.errors import InputError, SetupError, StageError
from align.recipe.environment import unset_variables
from align.recipe.load import load_recipe, resolved_yaml
from align.recipe.sections import Recipe
from align.report.choices import loop_line
from align.report.console import make_console
from align.report.html import write_report
from align.report.screen import RichScreen
from align.report.summary import read_run
from align.report.table import closing_tables
from align.resources import accelerate_config
from align.stages.commands import Launch, visible_devices
from align.stages.folder import RunFolder
from align.stages.network import interface_towards
from align.stages.run import run_recipe


def main(args: argparse.Namespace) -> int:
    """Returns 0; errors are raised as `AlignError` with their exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Records hold no cycles; looking for some takes a third of the time of a step done here.
    gc.set_threshold(100_000, 50, 50)
    check_numbers(args.nodes, args.node_rank, args.processes)
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least 1 process samples")
    cache = [] if args.cache is None else [f"run.cache={json.dumps(args.cache)}"]
    recipe = load_recipe(
        args.recipe,
        [*args.overrides, *cache],
        environment=True,
        began=lambda recipe: began(recipe, _folder(args.out, recipe)),
    )
    out = _folder(args.out, recipe)
    check_cache(recipe.run.cache)
    configuration, processes = choose_launch(args.accelerate_config)
    launch = Launch(
        accelerate_config=configuration,
        processes=args.processes or processes,
        workers=args.workers,
        nodes=args.nodes,
        node_rank=args.node_rank,
        main_address=args.main_address,
        main_port=args.main_port,
        interface=interface_towards(args.main_address) if args.nodes > 1 else None,
    )
    console = make_console()
    for line in unset_variables(recipe) if args.node_rank == 0 else ():
        console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)
    screen = RichScreen(console)
    if launch.node_rank == 0 and (line := loop_line(recipe)):
        console.print(f"loop   {line}", highlight=False, markup=False, soft_wrap=True)
    run_recipe(RunFolder(recipe, out), launch, screen, args.redo)
    screen.flush_skipped()
    if launch.node_rank == 0:
        _close(console, out)
    return 0


def check_numbers(nodes: int, node_rank: int, processes: int | None) -> None:
    """Raises `InputError` where no launch has these numbers of nodes and ranks."""
    if nodes < 1:
        raise InputError(f"--nodes {nodes}: a run has at least 1 node")
    if not 0 <= node_rank < nodes:
        raise InputError(
            f"--node-rank {node_rank}: with --nodes {nodes} the ranks are 0 to {nodes - 1}"
        )
    if processes is not None and processes < 1:
        raise InputError(f"--processes {processes}: a training stage has at least 1 rank a node")


def check_cache(cache: str | None) -> None:
    """Raises `InputError` where nothing can be kept in `run.cache`: its first file is written when
    the first step is done, which may have taken hours.
    """
    if cache is None:
        return
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise InputError(
            f"run.cache {cache}: {error.strerror}; name a folder that can be written to"
        ) from error


def _folder(named: str | None, recipe: Recipe) -> Path:
    return Path(named or f"runs/{recipe.run.name}")


def began(recipe: Recipe, out: Path) -> bool:
    """True where the folder's run began with this very recipe: it was checked whole then."""
    path = out / "recipe.yaml"
    return path.is_file() and path.read_text() == resolved_yaml(recipe)


def _close(console: Console, out: Path) -> None:
    summary = read_run(out)
    try:
        report = write_report(summary)
    except OSError as error:
        raise StageError(
            f"{error.filename or out}: {error.strerror}; the run is finished, but its report could "
            f"not be written: make room, then type `align report {out}`"
        ) from error
    console.print()
    if summary.points:
        for table in closing_tables(summary):
            console.print(table)
        console.print()
    if ending := summary.ending:
        console.print(ending, highlight=False, markup=False, soft_wrap=True)
    console.print(f"run    {out}\nreport {report}", highlight=False, markup=False, soft_wrap=True)
    last = next(
        (step.name for step, _ in reversed(summary.steps) if step.kind in ("generate", "score")), ""
    )
    third = f"align publish {out} --repo OWNER/NAME" if summary.has_model else f"align show {out}"
    console.print(
        f"next   align show {out / last}\n       align report {out}\n       {third}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def choose_launch(named: str | None) -> tuple[Path, int | None]:
    """The accelerate configuration (the user's, by name or path, else what this machine's devices
    call for) and its ranks on this node: one a device, unless the user's own file says how many.
    """
    devices = len(visible_devices())
    if named is None:
        named = "cpu" if devices == 0 else "single_gpu" if devices == 1 else "ddp"
    path = Path(named)
    if path.suffix not in (".yaml", ".yml"):
        return accelerate_config(named), max(1, devices)
    if not path.is_file():
        raise SetupError(f"--accelerate-config {named}: no such file")
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise SetupError(f"--accelerate-config {named} cannot be read: {why}") from error
    if not isinstance(config, dict):
        raise SetupError(
            f"--accelerate-config {named} holds no settings; `accelerate config` writes such a file"
        )
    return path, None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
