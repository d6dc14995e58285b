"""Processes as forks of one that has imported the libraries, which start in a tenth of a second.

Most of what a small stage costs is importing torch, transformers and TRL. `align.launch.forks`
imports them once and does nothing else; a fork of it becomes what the command line would have
started. A fork's only history are imports, so its numbers are those of a process of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from align.stages.children import Command, Process, environment, open_log, start, stop

MESSAGE_BYTES = 1 << 17
"""The longest order or answer; what a longer order names is a new process."""


class Forks:
    """Its `start` is a `Start`: a fork where that will do, else a new process."""

    def __init__(self, log: Path, say: Callable[[str], None]) -> None:
        """`log` takes what the imports say; `say` tells that a fork was not to be had."""
        self._log, self._say = log, say
        self._source: Source | None = None

    def start(
        self, command: Command, words: Sequence[str] = (), reply: int | None = None
    ) -> Process:
        """See `align.stages.children.Start`."""
        order = _order(command, words)
        if not command.forks or len(order) > MESSAGE_BYTES:
            return start(command, words, reply)
        if self._source is None:
            self._source = Source(self._log)
        try:
            return self._source.fork(command, order, reply)
        except ConnectionError:
            self._say(f"nothing to fork from, so a new process starts; see {self._log}")
            self.close()
            return start(command, words, reply)

    def close(self) -> None:
        """Ends the process that forks; the next command to fork starts another."""
        if self._source is not None:
            self._source.close()
        self._source = None


class Source:
    """The process that has imported the libraries."""

    def __init__(self, log: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = Command((sys.executable, "-m", "align.launch.forks"), log, {})
        with theirs, open_log(command) as file:
            self._process = subprocess.Popen(
                command.argv,
                stdin=theirs.fileno(),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(command)},
                start_new_session=True,
            )
        self._forked: list[int] = []
        """Processes that it said it has begun."""
        self._codes: dict[int, int] = {}
        self._is_gone = False

    def fork(self, command: Command, order: bytes, reply: int | None) -> Forked:
        """Raises `ConnectionError` where the process is gone."""
        theirs, ours = os.pipe()
        try:
            with open_log(command) as log:
                descriptors = [theirs, log.fileno(), *(() if reply is None else (reply,))]
                socket.send_fds(self._socket, [order], descriptors)
            begun = len(self._forked)
            while len(self._forked) == begun:
                if self._is_gone:
                    raise ConnectionResetError(self._process.pid)
                self.hear(None)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return Forked(self, self._forked[-1], os.fdopen(ours, "wb"))

    def hear(self, timeout: float | None) -> None:
        """Takes in what it says within so many seconds."""
        while not self._is_gone and select.select([self._socket], [], [], timeout)[0]:
            timeout = 0
            try:
                answer = self._socket.recv(MESSAGE_BYTES)
            except ConnectionError:
                answer = b""
            if not answer:
                self._is_gone = True
            elif "code" in (said := json.loads(answer)):
                self._codes[said["pid"]] = said["code"]
            else:
                self._codes.pop(said["pid"], None)  # of an earlier process of this number
                self._forked.append(said["pid"])

    def code(self, pid: int) -> int | None:
        """The exit status of a fork, None while it runs; nobody can tell that of one that is left
        behind, which its lifeline ends.
        """
        self.hear(0)
        return self._codes.get(pid, -signal.SIGKILL if self._is_gone else None)

    def close(self) -> None:
        """Ends it."""
        self._socket.close()
        self._is_gone = True
        stop(self._process)


class Forked:
    """A fork, with what is used of `subprocess.Popen`."""

    def __init__(self, source: Source, pid: int, stdin: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self._source = source

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._source.code(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it is there; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
            self._source.hear(left)
        return code


def _order(command: Command, words: Sequence[str]) -> bytes:
    said = {"argv": [*command.argv, *words], "environment": environment(command)}
    return json.dumps(said).encode()
