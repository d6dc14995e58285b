"""`align report DIR`: writes report.html and report.json of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from align.errors import InputError
from align.report.console import make_console
from align.report.html import write_report
from align.report.summary import read_any_run
from align.report.table import closing_tables


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises `InputError` where there is no run."""
    out = Path(args.path)
    if not (out / "recipe.yaml").is_file():
        raise InputError(f"{out} is not a run folder: it holds no recipe.yaml")
    summary = read_any_run(out)
    page = write_report(summary)
    console = make_console()
    if summary.refused:
        console.print(summary.refused, highlight=False, markup=False, soft_wrap=True)
    if summary.points:
        for table in closing_tables(summary):
            console.print(table)
    console.print(
        f"\n{page}\n{page.with_suffix('.json')}", highlight=False, markup=False, soft_wrap=True
    )
    return 0
