"""What every launch module shares: its command line and how a failure is reported."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from align.errors import AlignError, InputError
from align.launch.lifeline import Lifeline, log_to, report
from align.recipe.load import load_recipe
from align.stages.execute import failure_name
from align.stages.folder import RunFolder
from align.stages.manifest import write_json
from align.stages.steps import Kind, Step, plan


def run_step(kind: Kind, work: Callable[[RunFolder, list[Step], argparse.Namespace], None]) -> int:
    """Parses the command line, does the work, returns the exit status; a failure leaves
    `failure.json`.
    """
    arguments = _parse(kind)
    if arguments.lifeline:
        Lifeline()
    try:
        run, steps = _read(kind, arguments)
        work(run, steps, arguments)
    except (
        Exception
    ) as error:  # the process boundary: reported to `align run`, then the status says so
        _report(error, arguments, arguments.step)
        return error.exit_status if isinstance(error, AlignError) else 3
    return 0


def run_worker(
    kind: Kind, work: Callable[[RunFolder, list[Step], argparse.Namespace], tuple[list[str], bool]]
) -> int:
    """The same for one of several workers: `work` also returns lines for the screen and whether the
    process may stay, which it does, where `align run` asked it to, until it is told to leave.
    """
    arguments = _parse(kind, shared=True)
    lifeline = Lifeline() if arguments.lifeline else None
    names = arguments.step
    try:
        run, steps = _read(kind, arguments)
        while True:
            notes, may_stay = work(run, steps, arguments)
            stays = may_stay and arguments.stay and lifeline is not None
            if arguments.reply is not None:
                report(arguments.reply, notes, stays)
            else:
                print(*notes, sep="\n")
            if not stays or lifeline is None:
                return 0
            order = lifeline.next_order()
            if not order.steps:
                return 0
            log_to(order.log)
            names, arguments.stay = list(order.steps), order.stay
            steps = _steps(run, kind, names)
    except (
        Exception
    ) as error:  # the process boundary: reported to `align run`, then the status says so
        _report(error, arguments, names)
        return error.exit_status if isinstance(error, AlignError) else 3


def _read(kind: Kind, arguments: argparse.Namespace) -> tuple[RunFolder, list[Step]]:
    recipe = load_recipe(arguments.recipe, arguments.set, plugin_options=False)
    run = RunFolder(recipe, Path(arguments.out))
    return run, _steps(run, kind, arguments.step)


def _parse(kind: Kind, *, shared: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m align.launch.{kind}",
        description=f"Runs the {kind} step(s) of a recipe; `align run` calls this for you.",
    )
    parser.add_argument("recipe", help="the recipe, or the recipe.yaml of a run folder")
    parser.add_argument("--out", required=True, help="the run folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one recipe value"
    )
    parser.add_argument(
        "--step",
        action="append",
        default=[],
        help=f"folder of the step; default: the first {kind} step without a manifest",
    )
    parser.set_defaults(worker=0)
    if shared:
        parser.add_argument(
            "--worker",
            type=int,
            default=0,
            help="a number of its own for each of several processes, which share the step's shards",
        )
        parser.add_argument(
            "--reply", type=int, metavar="FD", help="where to say so when the steps are done"
        )
        parser.add_argument(
            "--stay", action="store_true", help="then wait for more (set by `align run`)"
        )
    parser.add_argument(
        "--ranks", type=int, help="how many processes were asked for; another number is an error"
    )
    parser.add_argument(
        "--lifeline",
        action="store_true",
        help="stop when standard input closes (set by `align run`)",
    )
    return parser.parse_args()


def _steps(run: RunFolder, kind: Kind, names: Sequence[str]) -> list[Step]:
    steps = [step for step in plan(run.recipe) if step.kind == kind]
    if not steps:
        raise InputError(f"this recipe has no {kind} step")
    if names:
        unknown = sorted(set(names) - {step.name for step in steps})
        if unknown:
            raise InputError(
                f"{unknown[0]} is not a {kind} step of this recipe; it has "
                f"{[s.name for s in steps]}"
            )
        return [step for step in steps if step.name in names]
    waiting = [step for step in steps if run.manifest(step.name) is None]
    return waiting[:1] or steps[:1]


def _report(error: Exception, arguments: argparse.Namespace, steps: Sequence[str]) -> None:
    traceback.print_exc()
    cause = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, AlignError):
        cause = f"{type(error).__name__}: {cause}"
    status = error.exit_status if isinstance(error, AlignError) else 3
    print(f"error: {cause}", file=sys.stderr, flush=True)
    if steps:
        path = Path(arguments.out) / steps[0] / failure_name(arguments.worker)
        if not path.is_file():
            foreseen = isinstance(error, AlignError)
            write_json(path, {"cause": cause, "exit_status": status, "is_foreseen": foreseen})
