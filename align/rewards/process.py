"""A pool of worker processes that can be killed, for work that may never end (symbolic mathematics,
user code).

Every worker is a fresh interpreter (`align.rewards.worker`; nothing is forked from a process that
runs torch's threads) that speaks JSON lines over its own pipes. Each item has a deadline in
processor seconds, kept by the kernel inside the worker: it needs no cooperation of the code that
hangs, does not depend on how busy the machine is, and holds even where this process has been
killed. A deadline in wall-clock time, kept here, catches what sleeps. A killed worker is replaced.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from align.errors import SetupError
from align.records import Json

START_SECONDS = 120.0
"""For a worker to import its function; a cold disk takes tens of seconds."""
WALL_FACTOR = 10.0
"""Wall-clock deadline in units of the processor deadline: many workers may share one core."""
MEMORY_BYTES = 4 << 30
"""Address space of a worker: a tower of exponents must fail here, not fill the machine."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item: a `value`, or an `error` that says why there is none."""

    value: Json = None
    error: str | None = None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    buffer: bytes = b""
    ready: bool = False
    item: int | None = None
    deadline: float = field(default_factory=lambda: time.monotonic() + START_SECONDS)


class WorkerPool:
    """Runs one function on many items: `WorkerPool("align.rewards.math_worker:judge", workers=2,
    seconds=5).map(items)`.

    The function takes and returns JSON values; with an `argument` it is given that first, once a
    worker and without a deadline, and returns what takes the items. Raises `SetupError` where a
    worker cannot import it.
    """

    def __init__(
        self, function: str, *, workers: int, seconds: float, argument: str | None = None
    ) -> None:
        self._function, self._seconds, self._argument = function, seconds, argument
        self._selector = selectors.DefaultSelector()
        self._workers = list[_Worker]()
        self.restarts = 0
        """Workers replaced so far because they were killed or died."""
        for _ in range(workers):
            self._start()

    def map(self, items: Sequence[Json]) -> list[Outcome]:
        """One outcome an item, in order, whatever worker had it and whoever finished first."""
        outcomes: list[Outcome | None] = [None] * len(items)
        waiting = deque(range(len(items)))
        while waiting or any(worker.item is not None for worker in self._workers):
            for worker in self._workers:
                if waiting and worker.ready and worker.item is None:
                    self._send(worker, waiting.popleft(), items, outcomes)
            self._wait(outcomes)
        return [outcome or Outcome(error="never run") for outcome in outcomes]

    def close(self) -> None:
        """Kills the workers."""
        for worker in list(self._workers):
            self._stop(worker)
        self._selector.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", "align.rewards.worker", self._function]
        command += [str(self._seconds), str(MEMORY_BYTES)]
        command += [] if self._argument is None else [self._argument]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)},
        )
        worker = _Worker(process)
        self._workers.append(worker)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)

    def _stop(self, worker: _Worker) -> int:
        """Kills the worker where it still runs; its exit status (negative: the signal that ended
        it).
        """
        process = worker.process
        assert process.stdin is not None and process.stdout is not None
        self._selector.unregister(process.stdout)
        self._workers.remove(worker)
        process.kill()
        status = process.wait()
        process.stdin.close()
        process.stdout.close()
        return status

    def _send(
        self, worker: _Worker, index: int, items: Sequence[Json], outcomes: list[Outcome | None]
    ) -> None:
        worker.item = index
        worker.deadline = time.monotonic() + self._seconds * WALL_FACTOR
        stdin = worker.process.stdin
        assert stdin is not None
        line = memoryview(json.dumps(items[index]).encode() + b"\n")
        try:
            while line:  # unbuffered: a write may take only a part
                line = line[stdin.write(line) or 0 :]
        except BrokenPipeError:
            self._replace(worker, outcomes, hung=False)

    def _wait(self, outcomes: list[Outcome | None]) -> None:
        """Blocks until a worker speaks, ends or is overdue."""
        watched = [
            worker for worker in self._workers if not worker.ready or worker.item is not None
        ]
        until = min(worker.deadline for worker in watched)
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            worker = key.data
            chunk = os.read(key.fd, 1 << 16)
            if chunk:
                self._receive(worker, chunk, outcomes)
            else:
                self._replace(worker, outcomes, hung=False)
        now = time.monotonic()
        for worker in watched:
            overdue = now >= worker.deadline and (not worker.ready or worker.item is not None)
            if overdue and worker in self._workers:
                self._replace(worker, outcomes, hung=True)

    def _receive(self, worker: _Worker, chunk: bytes, outcomes: list[Outcome | None]) -> None:
        *lines, worker.buffer = (worker.buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if not worker.ready:
                if message["error"]:
                    raise SetupError(f"{self._function} cannot run in a worker: {message['error']}")
                worker.ready = True
            elif worker.item is not None:
                outcomes[worker.item] = Outcome(message["value"], message["error"])
                worker.item = None

    def _replace(self, worker: _Worker, outcomes: list[Outcome | None], *, hung: bool) -> None:
        """Ends a worker, writes down what its item met, and starts another."""
        status = self._stop(worker)
        if not worker.ready:
            reason = (
                "did not start in time" if hung else f"ended with status {status} before it began"
            )
            raise SetupError(f"the worker for {self._function} {reason}")
        if worker.item is not None:
            if hung:
                reason = f"no answer within {self._seconds * WALL_FACTOR:g} s"
            elif status == -signal.SIGPROF:
                reason = f"stopped after {self._seconds:g} s of processor time"
            else:
                reason = f"the worker died with status {status}"
            outcomes[worker.item] = Outcome(error=reason)
        self.restarts += 1
        self._start()
