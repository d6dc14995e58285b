"""What `align run` shows: one line a finished step, one live bar for the running one; plain lines
where there is no terminal.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.table import Column

from align.progress import State
from align.report.alarms import alarms
from align.stages.manifest import Manifest
from align.stages.steps import Step


class RichScreen:
    """Implements `align.stages.run.Screen` on a rich console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._skipped = 0

    def skipped(self, step: Step, manifest: Manifest) -> None:
        """A step whose key matches: counted, and said in one line before the next thing is
        shown.
        """
        self._skipped += 1

    def started(self, steps: Sequence[Step], argv: Sequence[str]) -> None:
        """The command that runs, and a bar for it."""
        self.flush_skipped()
        if argv:
            shown = [word for word in argv if word != "--lifeline"]
            self._console.print(
                f"[dim]$ {escape(shlex.join(shown))}[/dim]", highlight=False, soft_wrap=True
            )
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),  # the only one that may wrap: a narrow screen squeezes it
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[facts]}"),
                console=self._console,
                transient=True,
            )
            self._live.start()
            self._live.add_task(_names(steps), total=None, facts="starting")

    def progress(self, steps: Sequence[Step], state: State | None) -> None:
        """Moves the bar to what the step last wrote."""
        if self._live is None or state is None:
            return
        task = self._live.tasks[0]
        self._live.update(
            task.id,
            description=f"{_names(steps)} [cyan]{state.label}[/cyan]",
            completed=state.done,
            total=state.total,
        )
        self._live.update(task.id, facts="  ".join(_facts(state, task)))

    def say(self, text: str) -> None:
        """A line beside the bar."""
        self._console.print(f"[dim]{escape(text)}[/dim]", highlight=False, soft_wrap=True)

    def finished(self, step: Step, manifest: Manifest) -> None:
        """One line: what was made, what was dropped, how long it took."""
        self._end()
        self.flush_skipped()
        facts = [
            f"{count:,} {name.replace('_', ' ')}"
            for name, count in manifest.counts.items()
            if count
        ]
        source = "[dim]from the cache[/dim]" if manifest.from_cache else f"{manifest.seconds:.1f} s"
        self._console.print(
            f"[green]done[/green] {step.name:<24} {', '.join(facts)}  [dim]{source}[/dim]",
            highlight=False,
            soft_wrap=True,
        )
        for line in alarms(step, manifest):
            self._console.print(
                f"[yellow]warning[/yellow] {step.name}: {escape(line)}",
                highlight=False,
                soft_wrap=True,
            )

    def failed(self, steps: Sequence[Step]) -> None:
        """Takes the bar away; the error itself is printed by the command."""
        self._end()

    def flush_skipped(self) -> None:
        """Says how many steps were already there."""
        if self._skipped:
            self._console.print(f"[dim]{self._skipped} steps were already done[/dim]")
            self._skipped = 0

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _names(steps: Sequence[Step]) -> str:
    """The first of them, and how many more one command makes."""
    return steps[0].name + (f" +{len(steps) - 1}" if len(steps) > 1 else "")


def _facts(state: State, task: Task) -> list[str]:
    """How far a step is, what matters most first: a screen of 80 columns cuts the rest."""
    found = [f"{state.done:,.0f}/{'?' if state.total is None else f'{state.total:,.0f}'}"]
    if task.time_remaining is not None:
        found.append(f"{timedelta(seconds=int(task.time_remaining))} left")
    if state.tokens_per_second:
        found.append(f"{state.tokens_per_second:,.0f} tokens/s")
    elapsed = max(time.time() - state.started, 1e-6)
    found.append(f"{state.done / elapsed:,.1f} {state.unit}/s")
    return [*found, f"[dim]{escape(state.note)}[/dim]"] if state.note else found
