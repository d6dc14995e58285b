"""The pipe on standard input, whose other end `align run` holds: orders come through it, and its
end is the end of this process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KILLED = 137


@dataclass(frozen=True)
class Order:
    """What a worker that stayed is to do next."""

    steps: tuple[str, ...]
    """Names; none: leave."""
    log: Path
    stay: bool
    """Whether more may come after them."""


class Lifeline:
    """Reads standard input in a thread of its own."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next_order(self) -> Order:
        """Waits for it."""
        return self._orders.get()

    def _read(self) -> None:
        # The bare descriptor: a thread inside `sys.stdin` would hold its lock when the interpreter
        # ends.
        heard = b""
        while block := os.read(0, 1 << 16):
            heard += block
            while b"\n" in heard:
                line, _, heard = heard.partition(b"\n")
                said = json.loads(line)
                self._orders.put(Order(tuple(said["steps"]), Path(said["log"]), said["stay"]))
        die()


def die() -> None:
    """Ends this process at once, and what it started too where it leads a group of its own."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(KILLED)


def leave() -> None:
    """Ends this process, whose work is done and written, without taking anything down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def report(descriptor: int, notes: Sequence[str], stays: bool) -> None:
    """Says that the steps are done, for `align.stages.crew`."""
    os.write(descriptor, json.dumps({"notes": list(notes), "stays": stays}).encode() + b"\n")


def log_to(path: Path) -> None:
    """From here on, everything printed goes to another log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
