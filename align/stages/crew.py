"""The sampling and scoring workers of this node: several at a time, some of them kept for later.

Workers of one step share its shards by lease, so one that dies or hangs costs its shard's work: the
others make it. A kept worker holds a loaded sampler between steps and takes the next steps' names
as a line on its standard input; each says on a pipe of its own that steps are done.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from align.progress import State, progress_files, progress_name
from align.stages.children import GRACE_SECONDS, Command, Process, Start, start, stop
from align.stages.execute import POLL_SECONDS, Failure, failure_name, failure_of, latest
from align.stages.leases import SILENT_SECONDS, Holder, held_by

END_SECONDS = 0.01
"""Between two looks at a process that is about to end."""
WATCH_SECONDS = 0.5
"""Between two looks at the leases."""


@dataclass(frozen=True)
class Report:
    """What a worker says of a finished batch of steps."""

    notes: tuple[str, ...]
    """Lines for the screen, e.g. how long its engine took to start."""
    stays: bool
    """Whether it waits for more."""


@dataclass
class Worker:
    """A process of the crew."""

    command: Command
    process: Process
    reply: int
    """The end of its pipe that is read here."""
    said: Report | None = None
    leases: dict[Path, Holder] = field(default_factory=dict[Path, Holder])
    moved: float = 0.0
    """When, by our clock, its work last got on."""
    alive: float = 0.0
    """When its leases last changed at all."""
    is_silent: bool = False
    """Whether it closed its end of the pipe."""
    _heard: bytes = b""

    def listen(self) -> None:
        """Takes in what it has said since."""
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self.reply, 1 << 16):
                self._heard += block
            self.is_silent = True
        line, end, rest = self._heard.partition(b"\n")
        if end:
            self._heard = rest
            said = json.loads(line)
            self.said = Report(tuple(said["notes"]), said["stays"])

    def order(self, command: Command, stay: bool) -> bool:
        """Gives it the next steps, none to leave. False where it died while it waited, which costs
        no more than a new start.
        """
        assert self.process.stdin is not None
        line = json.dumps({"steps": command.steps, "log": str(command.log), "stay": stay})
        self.command, self.said = command, None
        if self.process.poll() is not None:
            return False
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def begin(self) -> None:
        """Its clocks start with the batch."""
        self.moved = self.alive = time.monotonic()
        self.leases = {}

    def watch(self, folders: Sequence[Path]) -> None:
        """Looks at what it says by its leases."""
        leases, before = held_by(folders, self.process.pid), self.leases
        self.leases = leases
        if leases != before:
            self.alive = time.monotonic()
        if {p: holder.done for p, holder in leases.items()} != {
            p: holder.done for p, holder in before.items()
        }:
            self.moved = time.monotonic()


class Crew:
    """Starts workers, watches over them, and keeps those that offer to stay."""

    def __init__(
        self, patience: float, silent: float = SILENT_SECONDS, start: Start = start
    ) -> None:
        """Seconds after which a worker that finishes nothing, or whose heart stands still, is
        given up.
        """
        self._patience, self._silent, self._start = patience, silent, start
        self._kept: list[Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._kept:
            _dismiss(worker)
        self._kept = []

    def work(
        self,
        commands: Sequence[Command],
        folders: Sequence[Path],
        show: Callable[[State | None], None],
        say: Callable[[str], None],
        *,
        stay: bool = False,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs one batch of steps to its end; `folders` are the steps', the first of which takes
        reports of failures.

        A worker that is killed, hangs or meets an unforeseen error is lost, which `say` tells; the
        step goes on while there is another. Raises `StageError` when there is none, when two were
        lost by one error, or when an error is one that all would meet. `stay`: workers may offer to
        wait for a later batch.
        """
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        _forget_words(commands, folders)
        active = self._staff(commands, stay)
        lost: list[Failure] = []
        moving, looked = _evidence(folders), time.monotonic()
        try:
            while active:
                for worker in [one for one in active if _is_done(one)]:
                    active.remove(worker)
                    self._part(worker, say)
                if time.monotonic() - looked >= WATCH_SECONDS:
                    looked = time.monotonic()
                    before, moving = moving, _evidence(folders)
                    for worker in active:
                        worker.watch(folders)
                        # who waits for others waits with reason while they get on
                        if moving != before and not worker.leases:
                            worker.moved = looked
                for worker in list(active):
                    failure = self._failure(worker, folders[0])
                    if failure is not None:
                        active.remove(worker)
                        self._lose(worker, failure, folders, lost, is_last=not active)
                        say(f"lost worker {worker.command.worker}: {failure.cause}; others go on")
                show(latest(folders))
                still_wanted()
                _wait(active)
        finally:
            for worker in active:
                _end(worker)
        _forget_words(commands, folders)

    def _staff(self, commands: Sequence[Command], stay: bool) -> list[Worker]:
        """For each command a kept worker that can take it, else a new one; the others go."""
        found: list[Worker] = []
        for command in commands:
            worker = next((one for one in self._kept if _fits(one.command, command)), None)
            if worker is not None:
                self._kept.remove(worker)
                if not worker.order(command, stay):
                    _end(worker)
                    worker = None
            found.append(worker or self._hire(command, stay))
        for worker in [one for one in self._kept if _module(one.command) == _module(commands[0])]:
            self._kept.remove(worker)
            _dismiss(worker)
        for worker in found:
            worker.begin()
        return found

    def _hire(self, command: Command, stay: bool) -> Worker:
        ours, theirs = os.pipe()
        try:
            process = self._start(command, ("--stay",) if stay else (), reply=theirs)
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        return Worker(command, process, ours)

    def _part(self, worker: Worker, say: Callable[[str], None]) -> None:
        for note in worker.said.notes if worker.said else ():
            say(note)
        if worker.said and worker.said.stays and worker.process.poll() is None:
            self._kept.append(worker)
        else:
            _end(worker)

    def _lose(
        self,
        worker: Worker,
        failure: Failure,
        folders: Sequence[Path],
        lost: list[Failure],
        *,
        is_last: bool,
    ) -> None:
        """Ends it and frees its shards; raises where the step cannot go on."""
        _end(worker, grace=0.0)
        for path in held_by(folders, worker.process.pid):
            path.unlink(missing_ok=True)
        known = failure.kind == "unforeseen" and failure.cause in [one.cause for one in lost]
        if failure.kind == "foreseen" or known or is_last:
            raise failure.error()
        lost.append(failure)

    def _failure(self, worker: Worker, folder: Path) -> Failure | None:
        code = worker.process.poll()
        if _is_done(worker):  # since the last look
            return None
        if code is not None:
            return failure_of(worker.command, folder, code)
        now = time.monotonic()
        quiet, idle = now - worker.alive, now - worker.moved
        log = worker.command.log
        if worker.leases and quiet > self._silent:
            return Failure(f"it did not answer for {quiet:.0f} s and was killed", log)
        if idle > self._patience:
            return Failure(
                f"it finished nothing for {idle:.0f} s (run.patience) and was killed", log
            )
        return None


def _wait(workers: Sequence[Worker]) -> None:
    """Until one says something, but not for long."""
    if any(worker.is_silent for worker in workers):
        time.sleep(END_SECONDS)
    elif workers:
        select.select([worker.reply for worker in workers], [], [], POLL_SECONDS)


def _is_done(worker: Worker) -> bool:
    worker.listen()
    code = worker.process.poll()
    if worker.said is not None and worker.said.stays:
        return True
    return code == 0 or (code is not None and worker.said is not None)


def _fits(kept: Command, new: Command) -> bool:
    """Whether the process of one command can do the other's work."""
    same = (kept.argv[0], kept.environment, kept.worker) == (
        new.argv[0],
        new.environment,
        new.worker,
    )
    return same and _module(kept) == _module(new)


def _module(command: Command) -> str:
    return command.argv[2]  # python -m MODULE


def _dismiss(worker: Worker) -> None:
    if worker.order(Command(worker.command.argv, worker.command.log, {}), stay=False):
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(GRACE_SECONDS)
    _end(worker)


def _end(worker: Worker, grace: float = GRACE_SECONDS) -> None:
    stop(worker.process, grace)
    os.close(worker.reply)


def _forget_words(commands: Sequence[Command], folders: Sequence[Path]) -> None:
    """Deletes what this node's workers said of earlier attempts; other nodes' speak for
    themselves.
    """
    for folder in folders:
        for command in commands:
            for name in (failure_name(command.worker), progress_name(command.worker)):
                (folder / name).unlink(missing_ok=True)


def _evidence(folders: Sequence[Path]) -> list[str]:
    """Changes whenever any worker of any node gets on with these steps."""
    found: list[str] = []
    for folder in folders:
        found += sorted(path.name for path in folder.glob("part-*.parquet"))
        for path in progress_files(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append(path.read_text())
    return found
