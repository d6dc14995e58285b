"""What `align run` shows: one line a finished step, one live bar for the running one; plain lines
where there is no terminal.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}[/dim]"),
                console=self._console,
                transient=True,
            )
            self._live.start()
            self._live.add_task(
                " + ".join(step.name for step in steps), total=None, rate="", note="starting"
            )

    def progress(self, steps: Sequence[Step], state: State | None) -> None:
        """Moves the bar to what the step last wrote."""
        if self._live is None or state is None:
            return
        task = self._live.tasks[0]
        elapsed = max(time.time() - state.started, 1e-6)
        self._live.update(
            task.id,
            description=f"{' + '.join(step.name for step in steps)} [cyan]{state.label}[/cyan]",
            completed=state.done,
            total=state.total,
            rate=f"{state.done / elapsed:,.1f} {state.unit}/s",
            note=f"{state.tokens_per_second:,.0f} tokens/s"
            if state.tokens_per_second
            else state.note,
        )

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
