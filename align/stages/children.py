"""Child processes: what starts one, and what ends it with everything that it started."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

GRACE_SECONDS = 10.0


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
    forks: bool = False
    """Whether a fork of a process that has imported the libraries will do, see
    `align.stages.forks`."""


class Process(Protocol):
    """What is used of `subprocess.Popen`; the process leads a group of its own."""

    @property
    def pid(self) -> int: ...

    @property
    def stdin(self) -> IO[bytes] | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Start(Protocol):
    """Starts a command with its output in its log. Further `words` end its command line; the
    descriptor `reply` is inherited, and named to it by `--reply`.
    """

    def __call__(
        self, command: Command, words: Sequence[str] = (), reply: int | None = None
    ) -> Process: ...


def start(command: Command, words: Sequence[str] = (), reply: int | None = None) -> Process:
    """A `Start`: a new process in a session of its own."""
    with open_log(command) as log:
        return subprocess.Popen(
            [*command.argv, *words, *(() if reply is None else ("--reply", str(reply)))],
            pass_fds=() if reply is None else (reply,),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(command)},
            start_new_session=True,
        )


def open_log(command: Command) -> IO[bytes]:
    """The command's log, which names the command, open for what it says."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    log = command.log.open("ab")
    log.write(f"\n$ {shlex.join(command.argv)}\n".encode())
    log.flush()
    return log


def environment(command: Command) -> dict[str, str]:
    """What the command's process has besides this one's environment."""
    # DeepSpeed calls `ninja` by name, which lies beside an interpreter whose environment is not
    # active.
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {"PATH": os.pathsep.join(path), **command.environment}


def stop(child: Process, grace: float = GRACE_SECONDS) -> None:
    """Ends the child and everything it started."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal(child, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
            child.stdin.close()


def _signal(child: Process, number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return
