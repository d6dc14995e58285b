"""Boxes in which generated programs run: killable, limited, and cut off from the machine (I8).

A box is one process (`align.rewards.jail`) that runs programs one after the other in an empty
folder: first the compiler, then the program on each test. What a program writes never leaves the
box but by its output, which is cut at a limit.

- `namespace`: processes, network, mounts, users and host name of its own. A program cannot read a
  file of the machine but a read-only /usr and its language, cannot reach a network, and nothing of
  it survives. Needs Linux 5.12, and root or user namespaces.
- `process`: limits, deadline, clean environment and a temporary folder hold; files that the user
  (as root: `nobody`) can read and the network are open to the program, and one that detaches itself
  may survive. For trusted programs, or where the whole job runs in a container of its own.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from pydantic import ConfigDict

import align
from align.errors import SetupError
from align.records import Json
from align.rewards.jail import WALL_FACTOR

Isolation = Literal["namespace", "process"]

START_SECONDS = 60.0
"""For a box to open."""
GRACE_SECONDS = 10.0
"""The box keeps its own deadlines; one that does not answer so long after them is killed."""
HIDDEN = "/sys"
"""Where a box with namespaces is built, as it alone sees it: exists everywhere, and no program
needs what is below it."""
READ_BYTES = 1 << 16
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seconds: Annotated[float, Gt(0)] = 5.0
    """Processor time of one run, kept in whole seconds (rounded up); wall-clock time is 4 times as
    much."""
    memory_mb: Annotated[int, Ge(16)] = 512
    """Memory of all processes of the program (in a `process` box: of each)."""
    processes: Annotated[int, Ge(1)] = 32
    """Processes and threads."""
    disk_mb: Annotated[int, Ge(1)] = 64
    """All files together (in a `process` box: each file)."""
    output_kb: Annotated[int, Ge(1)] = 1024
    """Standard output, and as much of standard error."""


@dataclass(frozen=True)
class Ran:
    """What became of one program."""

    status: int
    """Exit status; negative: the signal that ended it."""
    output: str
    errors: str
    """The end of standard error."""
    seconds: float
    """Processor time."""
    stopped: Literal["", "time", "output", "memory"] = ""
    """The limit that stopped it."""


class BoxError(Exception):
    """The box, not the program, failed: its answer is no verdict on the program."""


@dataclass(frozen=True)
class Sandbox:
    """What all boxes of a reward have in common."""

    isolation: Isolation = "namespace"
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[str, ...] = ()
    """Files and folders shown read-only beside /usr."""
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """Where programs are looked up."""

    def open(self) -> Box:
        """An empty box. Raises `SetupError` where the machine does not allow this isolation."""
        return Box(self)

    def __str__(self) -> str:
        limits = self.limits
        return (
            f"{self.isolation} box, {limits.seconds:g} s, {limits.memory_mb} MiB memory, "
            f"{limits.disk_mb} MiB disk, {limits.processes} processes"
        )


class Box:
    """An open box; `with sandbox.open() as box: box.write(...); box.run(...)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._folder: Path | None = None
        if sandbox.isolation == "process":
            self._folder = Path(tempfile.mkdtemp(prefix="align-box-"))
            self._folder.chmod(0o755)
        limits = sandbox.limits
        config = {
            "parent": os.getpid(),
            "isolation": sandbox.isolation,
            "folder": str(self._folder or HIDDEN),
            "mounts": list(sandbox.mounts),
            "environment": {
                "PATH": sandbox.path,
                "HOME": str(self._folder or "/box"),
                "LANG": "C.UTF-8",
            },
            "memory": limits.memory_mb * MIB,
            "disk": limits.disk_mb * MIB,
            "processes": limits.processes,
            "output": limits.output_kb << 10,
        }
        # No site packages and an empty environment: secrets of this process must not be inherited.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "align.rewards.jail", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            cwd="/",
            env={"PYTHONPATH": str(Path(align.__file__).parents[1])},
        )
        self._buffer = b""
        try:
            self._answer(START_SECONDS)
        except BoxError as error:
            self.close()
            raise SetupError(refusal(sandbox.isolation, str(error))) from error

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, files: Mapping[str, str]) -> None:
        """Puts files into the box's folder."""
        self._send({"files": dict(files)})
        self._answer(GRACE_SECONDS)

    def run(self, command: Sequence[str], text: str = "", *, seconds: float) -> Ran:
        """Runs a program in the box's folder with `text` on standard input.

        Raises `BoxError` where it could not be started, or where the box itself died.
        """
        self._send({"command": list(command), "input": text, "seconds": seconds})
        found = self._answer(WALL_FACTOR * seconds + GRACE_SECONDS)
        return Ran(**found)  # pyright: ignore[reportArgumentType]  # what `jail.run` returns

    def close(self) -> None:
        """Ends every process of the box and removes its folder."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # the box ends by itself, and takes everything with it
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, message: Json) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        line = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while line:  # unbuffered: a write may take only a part
                line = line[stdin.write(line) or 0 :]
        except (BrokenPipeError, ValueError) as error:
            raise BoxError("the box is gone") from error

    def _answer(self, seconds: float) -> dict[str, Json]:
        """The box's next line. Raises `BoxError` for its errors, its end and its silence."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise BoxError(f"the box did not answer within {seconds:g} s")
            chunk = os.read(stdout.fileno(), READ_BYTES)
            if not chunk:
                raise BoxError("the box died")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        if "error" in message:
            raise BoxError(message["error"])
        return message


def refusal(isolation: Isolation, cause: str) -> str:
    """Why no box can be opened, and what to do."""
    if isolation == "process":
        return f"sandbox: no box can be opened ({cause})"
    return (
        f"sandbox: this machine does not allow a box with namespaces ({cause}); run as root or "
        "allow unprivileged user namespaces (Linux 5.12 or later), or, if the programs are trusted "
        "or the whole job is already isolated, choose `sandbox: process`, which neither hides "
        "files nor the network"
    )
