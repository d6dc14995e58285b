"""`align check RECIPE ...`: validates recipes and prints their plans; loads no weights."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.commands.local_data import data_problems
from align.commands.plan import make_plan
from align.errors import AlignError
from align.recipe.load import load_recipe
from align.report.choices import loop_line


def main(args: argparse.Namespace) -> int:
    """Prints each plan, or what is wrong with the recipe; the highest exit status of all."""
    status = 0
    for path in args.recipes:
        try:
            _check(path, args.overrides)
        except AlignError as error:
            print(error, file=sys.stderr)
            status = max(status, error.exit_status)
    return status


def _check(path: str, overrides: list[str]) -> None:
    recipe = load_recipe(path, overrides, environment=True, also=data_problems)
    plan = make_plan(recipe)
    # Wide enough for whole paths where nobody watches (a pipe has no width of its own).
    console = Console(soft_wrap=True) if Console().is_terminal else Console(width=160)
    console.print(Text(f"{path} is valid: run {recipe.run.name}, seed {recipe.run.seed}"))
    table = Table("step", "reads", "writes", box=None, pad_edge=False, header_style="bold")
    for step in plan.steps:
        table.add_row(Text(step.name), Text(step.reads), Text(step.writes))
    console.print(table)
    if loop := loop_line(recipe):
        console.print(Text(f"loop: {loop}"))
    for line in plan.estimates:
        console.print(Text(line))
    for line in plan.unset:
        console.print(Text(f"warning: {line}"))
    for line in plan.notes:
        console.print(Text(f"note: {line}"))
    if plan.unverified:
        console.print(Text("not verified (on the Hub, not looked up):"))
        for line in plan.unverified:
            console.print(Text(f"  {line}"))
