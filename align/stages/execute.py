"""Runs one step's command in a child process: its chatter to a log, its progress to the screen, its
failure in one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.errors import StageError
from align.progress import FILE_NAME as PROGRESS_NAME
from align.progress import State, read_state

FAILURE_NAME = "failure.json"
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.1
ROOM = 16 << 20
"""Bytes: a disk with less is as good as full, less than what the smallest checkpoints need."""


@dataclass(frozen=True)
class Command:
    """A process to run for a step."""

    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]
    """Added to the parent's."""
    worker: int = 0
    """Which of the step's sampling or scoring workers it is."""
    steps: tuple[str, ...] = ()
    """What a worker that is kept is told instead of a new command line."""


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
            time.sleep(POLL_SECONDS)
    finally:
        for child in children:
            stop(child)
    for folder in folders:
        (folder / PROGRESS_NAME).unlink(missing_ok=True)


def latest(folders: Sequence[Path]) -> State | None:
    """The progress of the step that began last."""
    states = [state for state in map(read_state, folders) if state is not None]
    return max(states, key=lambda state: state.started, default=None)


def start(
    command: Command, words: Sequence[str] = (), keep: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Starts it in a session of its own, its output in its log; it inherits the descriptors `keep`,
    which further `words` may name.
    """
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        log.write(f"\n$ {' '.join(command.argv)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [*command.argv, *words],
            pass_fds=keep,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": _path(), **command.environment},
            start_new_session=True,
        )


def _path() -> str:
    """DeepSpeed calls `ninja` by name, which lies beside an interpreter whose environment is not
    active.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def stop(child: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """Ends the child and everything it started."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal(child, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


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
