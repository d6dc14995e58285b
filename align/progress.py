"""Progress of a long step, written to `progress.json` in the step's folder so that whoever launched
it can draw it.

Sampling and scoring workers write one file each, of other launches the main process does; readers
are `align run`'s screen and `align show`. Standard library only.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

INTERVAL_SECONDS = 0.2
FILE_NAME = "progress.json"
WORK_NAME = ".work"
"""Lines `process seconds` of a step's processes, see `counted_as_work`."""
_INTERPRETER = uuid.uuid4().hex[:12]
"""Processes of two nodes may have the same number; forks of one process share this."""


@dataclass(frozen=True)
class State:
    """What a reader sees."""

    label: str
    done: float
    total: float | None
    unit: str
    """`prompts`, `steps`, ...: what `done` counts; shown with its rate a second."""
    note: str = ""
    """Short live text, e.g. `loss 0.61`."""
    started: float = 0.0
    """Unix time."""
    tokens_per_second: float = 0.0
    """Sampled by this worker just now; 0 where nothing is sampled."""


def read_state(folder: Path) -> State | None:
    """The progress of the step in `folder`, of all its workers together, or None where it has not
    begun to report.
    """
    states: list[State] = []
    for path in progress_files(folder):
        try:
            states.append(State(**json.loads(path.read_text())))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    if not states:
        return None
    total = max((state.total for state in states if state.total is not None), default=None)
    done = sum(state.done for state in states)
    return replace(
        states[0],
        done=done if total is None else min(done, total),
        total=total,
        tokens_per_second=sum(state.tokens_per_second for state in states),
    )


def progress_name(worker: int) -> str:
    """The file that a step's worker writes."""
    return FILE_NAME if worker == 0 else f"progress-{worker}.json"


def progress_files(folder: Path) -> list[Path]:
    """What workers have written of the step in `folder`, the first worker's first."""
    return sorted(folder.glob("progress*.json"), key=lambda path: (len(path.name), path.name))


class Progress:
    """Context manager: `with Progress(folder, "sampling", total=100, unit="prompts") as bar:
    bar.advance(8)`.

    With `folder` None it does nothing (ranks other than the first). Workers that share a step each
    count what they do themselves, out of the same total.
    """

    def __init__(
        self, folder: Path | None, label: str, *, total: float | None, unit: str, worker: int = 0
    ) -> None:
        self._folder = folder
        self._name = progress_name(worker)
        self._state = State(label, 0, total, unit, "", time.time())
        self._written = 0.0

    def advance(
        self, amount: float = 1, note: str | None = None, tokens_per_second: float = 0.0
    ) -> None:
        """Counts `amount` more units done; `note` replaces the live text."""
        self._state = replace(self._state, tokens_per_second=tokens_per_second)
        self.set(self._state.done + amount, note)

    def set(self, done: float, note: str | None = None, total: float | None = None) -> None:
        """Sets the absolute count, and the total where it has become known."""
        self._state = replace(
            self._state,
            done=done,
            note=self._state.note if note is None else note,
            total=self._state.total if total is None else total,
        )
        now = time.monotonic()
        if now - self._written >= INTERVAL_SECONDS or done == self._state.total:
            self._written = now
            self._write()

    def __enter__(self) -> Progress:
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write()

    def _write(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{self._name}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self._state)))
        temporary.replace(self._folder / self._name)


@contextmanager
def counted_as_work(folder: Path | None) -> Generator[None]:
    """Counts the time inside as the step's own work (drawing, scoring, forward and backward), as
    opposed to starts, loading, reading and writing. With `folder` None it counts nothing.
    """
    began = time.monotonic()
    yield
    if folder is not None:
        with (folder / WORK_NAME).open("a") as file:
            file.write(f"{_INTERPRETER}-{os.getpid()} {time.monotonic() - began:.3f}\n")


def work_seconds(folder: Path) -> float:
    """Seconds of work of the step's busiest process."""
    path, found = folder / WORK_NAME, dict[str, float]()
    for line in path.read_text().splitlines() if path.is_file() else ():
        process, seconds = line.split()
        found[process] = found.get(process, 0.0) + float(seconds)
    return max(found.values(), default=0.0)
