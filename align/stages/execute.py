"""Runs one step's command in a child process: its chatter to a log, its progress to the screen, its
failure in one line.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.errors import StageError
from align.progress import FILE_NAME as PROGRESS_NAME
from align.progress import State, read_state
from align.stages.children import Command, Start, start, stop

FAILURE_NAME = "failure.json"
POLL_SECONDS = 0.1
ROOM = 16 << 20
"""Bytes: a disk with less is as good as full, less than what the smallest checkpoints need."""


@dataclass(frozen=True)
class Failure:
    """How a process ended that did not succeed."""

    cause: str
    log: Path
    exit_status: int = 3
    kind: Literal["foreseen", "unforeseen", "gone"] = "gone"
    """An error that names its remedy, one that nobody expected, or a death without a word."""

    def error(self) -> StageError:
        """What to raise for it."""
        error = StageError(self.cause, log=self.log)
        error.exit_status = self.exit_status
        return error


def execute(
    commands: Sequence[Command],
    folders: Sequence[Path],
    show: Callable[[State | None], None],
    still_wanted: Callable[[], None] = lambda: None,
    start: Start = start,
) -> None:
    """Runs the commands side by side until all are done; the first failure stops the others.

    `folders` are the steps' that the commands fill, the first of which takes their failure report.
    `show` gets the step's progress a few times a second; `still_wanted` may raise to stop (another
    node failed). Children hold one end of a pipe: if this process dies, however it dies, so do
    they.
    """
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (FAILURE_NAME, PROGRESS_NAME):
            (folder / name).unlink(missing_ok=True)
    children = [start(command) for command in commands]
    try:
        while True:
            codes = [child.poll() for child in children]
            failed = [i for i, code in enumerate(codes) if code not in (None, 0)]
            if failed:
                raise failure_of(commands[failed[0]], folders[0], codes[failed[0]] or 0).error()
            if all(code == 0 for code in codes):
                break
            show(latest(folders))
            still_wanted()
            with contextlib.suppress(subprocess.TimeoutExpired):
                children[codes.index(None)].wait(POLL_SECONDS)
    finally:
        for child in children:
            stop(child)
    for folder in folders:
        (folder / PROGRESS_NAME).unlink(missing_ok=True)


def latest(folders: Sequence[Path]) -> State | None:
    """The progress of the step that began last."""
    states = [state for state in map(read_state, folders) if state is not None]
    return max(states, key=lambda state: state.started, default=None)


def failure_name(worker: int) -> str:
    """The file in the step's folder by which a process says why it failed."""
    return FAILURE_NAME if worker == 0 else f"failure-{worker}.json"


def failure_of(command: Command, folder: Path, code: int) -> Failure:
    """Why a process ended with this code: its own words where it left some in the step's folder."""
    try:
        said = json.loads((folder / failure_name(command.worker)).read_text())
        kind = "foreseen" if said["is_foreseen"] else "unforeseen"
        return Failure(str(said["cause"]), command.log, int(said["exit_status"]), kind)
    except (OSError, ValueError, KeyError):  # a child that died leaves no report
        return Failure(_last_words(command.log, code), command.log)


def _last_words(log: Path, code: int) -> str:
    if code < 0:
        hint = "; out of memory is the usual cause" if -code == signal.SIGKILL else ""
        return f"killed by signal {-code} ({signal.Signals(-code).name}){hint}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = f"exit status {code}: {lines[-1][:300] if lines else 'no output'}"
    return said + _full_disk(log.parent)


def _full_disk(folder: Path) -> str:
    """A hint where a disk is as good as full: neither the log nor a report of the failure may have
    found room on it.
    """
    free = shutil.disk_usage(folder).free
    if free >= ROOM:
        return ""
    return (
        f"; the disk of {folder} has {free:,} bytes left: make room, and the same command goes on"
    )
