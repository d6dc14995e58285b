"""`align show PATH`: what a run, a step or a parquet part holds, and where a row came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from align.data.columns import SCHEMAS
from align.data.shards import parts, read_part
from align.errors import InputError
from align.progress import read_state
from align.records import Json, Judgement, Pair, Prompt, Sample, Score, canonical_json
from align.report.choices import loop_line
from align.report.console import make_console
from align.report.lineage import lineage
from align.report.summary import read_any_run
from align.report.table import closing_tables
from align.stages.manifest import Manifest, read_manifest

Record = Prompt | Sample | Score | Pair | Judgement


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises `InputError` for a path that holds nothing of ours."""
    path, console = Path(args.path), make_console()
    if args.id is not None:
        _trace(console, path, args.id)
    elif (path / "recipe.yaml").is_file():
        _show_run(console, path)
    elif path.suffix == ".parquet" or (path.is_dir() and (parts(path) or read_manifest(path))):
        _show_step(console, path, args.rows)
    else:
        raise InputError(
            f"{path} holds no run, step or part; give a run folder, one of its folders, or a "
            ".parquet file"
        )
    return 0


def _show_run(console: Console, out: Path) -> None:
    summary = read_any_run(out)
    if summary.refused:
        console.print(summary.refused, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("step", "state", "holds", "content"):
        table.add_column(name)
    for step, manifest in summary.steps:
        if manifest is None:
            state = read_state(out / step.name)
            text = (
                f"{state.label} {state.done:,.0f}/{state.total or 0:,.0f} {state.unit}"
                if state
                else "-"
            )
            table.add_row(step.name, "[yellow]open[/yellow]", escape(text), "")
        else:
            facts = ", ".join(
                f"{v:,} {k.replace('_', ' ')}" for k, v in manifest.counts.items() if v
            )
            table.add_row(
                step.name, f"{manifest.seconds:.1f} s", facts, f"[dim]{manifest.content[:12]}[/dim]"
            )
    console.print(table)
    if loop := loop_line(summary.recipe):
        console.print(f"loop   {loop}", highlight=False, markup=False, soft_wrap=True)
    if summary.points:
        console.print()
        for table in closing_tables(summary):
            console.print(table)


def _show_step(console: Console, path: Path, rows: int) -> None:
    manifest = read_manifest(path if path.is_dir() else path.parent)
    if manifest is not None and path.is_dir():
        console.print_json(
            json.dumps({"step": manifest.step, "kind": manifest.kind, "key": manifest.key})
        )
        console.print_json(
            json.dumps(
                {
                    "content": manifest.content,
                    "counts": manifest.counts,
                    "metrics": manifest.metrics,
                    "seconds": manifest.seconds,
                }
            )
        )
    files = parts(path) if path.is_dir() else [path]
    shown = 0
    for file in files:
        for record in _records(file)[: rows - shown]:
            console.print(_row(record))
            shown += 1
    if manifest is not None and path.is_dir():
        _print_lineage(console, path, [manifest.step])


def _records(path: Path) -> Sequence[Record]:
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    for kind, schema in SCHEMAS.items():
        if schema.names == names:
            return read_part(path, kind)
    raise InputError(f"{path} holds no records of ours; its columns are {names}")


def _row(record: Record) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in record.__dataclass_fields__:
        value = getattr(record, name)
        if value not in (None, "", ()):
            text = repr(value)
            # As it stands: samples hold brackets, `[/INST]` say, that are no markup of rich.
            table.add_row(name, Text(text if len(text) < 600 else text[:600] + " ..."))
    return table


def _trace(console: Console, path: Path, identity: str) -> None:
    """Every row of a run that carries an id, and what the steps that made them were made from, back
    to the recipe and the weights.
    """
    if not path.exists():
        raise InputError(f"{path} is not there")
    found = 0
    steps: list[str] = []
    files = [path] if path.is_file() else sorted(path.rglob("part-*.parquet"))
    for file in files:
        for record in _records(file):
            if identity in _identities(record):
                manifest = _owner(file, path)
                console.print(
                    f"[bold]{escape(str(file.relative_to(path) if path.is_dir() else file))}[/bold]"
                )
                if manifest is not None and manifest.step not in steps:
                    steps.append(manifest.step)
                console.print(_row(record))
                if isinstance(record, Sample) and (sampler := _sampler(record, manifest)):
                    line = f"drawn by {sampler}"
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
                console.print()
                found += 1
    if not found:
        raise InputError(f"no row under {path} carries the id {identity}")
    _print_lineage(console, path, steps)


def _print_lineage(console: Console, path: Path, names: Sequence[str]) -> None:
    """What the last of these steps was made from; nothing outside of a run."""
    top = path.resolve()
    out = next((one for one in (top, *top.parents) if (one / "recipe.yaml").is_file()), None)
    if out is None:
        return
    summary = read_any_run(out)
    if summary.refused:
        console.print(summary.refused, highlight=False, markup=False, soft_wrap=True)
        return
    # The last of them in the order of the run read all the others.
    order = [step.name for step, _ in summary.steps]
    last = max((name for name in names if name in order), key=order.index, default=None)
    if last is not None:
        console.print("[bold]made from[/bold]")
    for line in lineage(summary, last) if last is not None else ():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _sampler(sample: Sample, manifest: Manifest | None) -> str:
    """The settings that drew a sample, `policy` among them: of several samplers each signs its
    own. Empty where a step of ours did not.
    """
    section = cast("Mapping[str, Json]", manifest.key.get("section", {}) if manifest else {})
    samplers = cast("Sequence[Json]", section.get("samplers", ()))
    number = sample.meta.get("sampler", 0) if isinstance(sample.meta, Mapping) else 0
    if not isinstance(number, int) or number >= len(samplers):
        return ""
    return canonical_json(samplers[number])


def _owner(file: Path, top: Path) -> Manifest | None:
    for folder in file.parents:
        manifest = read_manifest(folder)
        if manifest is not None or folder == top:
            return manifest
    return None


def _identities(record: Record) -> set[str]:
    if isinstance(record, Pair):
        return {record.chosen, record.rejected}
    if isinstance(record, Judgement):
        return {record.prompt_id, *record.sample_ids}
    names = [
        name for name in ("prompt_id", "sample_id", "policy") if name in record.__dataclass_fields__
    ]
    return {getattr(record, name) for name in names}
