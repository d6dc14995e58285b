"""Shards of a step, each claimed through a file, by any number of workers on any number of nodes.

The file `FOLDER/.leases/part-00003` names its holder and carries two counts: `beat` rises every few
seconds while the holder's process runs, `done` with its work. A lease whose beat stands still is
free again. Leases save work and decide nothing else: a part appears whole or not at all, and
whoever makes it makes the same rows, so two holders of one shard cost time only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.data.shards import part_path

FOLDER_NAME = ".leases"
SILENT_SECONDS = 60.0
"""A beat that stands still for so long is a dead holder's; shared disks show news late."""
BEAT_SECONDS = 2.0
POLL_SECONDS = 0.2


class LeaseLost(Exception):
    """Somebody else has the shard: this process was silent for too long. Leave it and go on."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of a step."""

    folder: Path
    index: int

    @property
    def is_made(self) -> bool:
        """Whether its rows are there."""
        return part_path(self.folder, self.index).is_file()

    @property
    def lease(self) -> Path:
        """The file that its holder writes."""
        return self.folder / FOLDER_NAME / part_path(self.folder, self.index).stem


@dataclass(frozen=True, slots=True)
class Holder:
    """What a lease says."""

    host: str
    process: int
    nonce: str
    beat: int = 0
    done: int = 0

    def is_same_as(self, other: Holder) -> bool:
        """Whether both name one process, whatever their counts."""
        return self.nonce == other.nonce


class Lease:
    """A shard that this process holds."""

    def __init__(self, shard: Shard, holder: Holder) -> None:
        self.shard = shard
        self._holder = holder
        self._lock = threading.Lock()
        self._lost = False
        self._over = False

    def advance(self, amount: int = 1) -> None:
        """So much more of the shard is done. Raises `LeaseLost` where it is no longer ours."""
        with self._lock:
            if self._lost:
                raise LeaseLost(str(self.shard.lease))
            self._holder = _counted(self._holder, done=amount)

    def beat(self) -> None:
        """Says that the process lives, and notices that another has taken the shard over."""
        with self._lock:
            if self._over or self._lost:
                return
            found = read_lease(self.shard.lease)
            if found is None or not found.is_same_as(self._holder):
                self._lost = True
                return
            self._holder = _counted(self._holder, beat=1)
            _write(self.shard.lease, self._holder)

    def release(self) -> None:
        """Frees the shard for others, unless it is another's already."""
        with self._lock:
            self._over = True
            found = read_lease(self.shard.lease)
            if found is not None and found.is_same_as(self._holder):
                self.shard.lease.unlink(missing_ok=True)


@dataclass
class Claims:
    """The shards that one process takes, one at a time."""

    silent: float = SILENT_SECONDS
    beat: float = BEAT_SECONDS
    _seen: dict[Path, tuple[str, float]] = field(default_factory=dict)

    def over(self, shards: Iterable[Shard]) -> Iterator[Lease]:
        """Each shard that is not made and that nobody else is making; ends when all are made.

        While others hold the last ones it waits, and takes over what they lose.
        """
        waiting = list(shards)
        while waiting := _unmade(waiting):
            lease = next((found for one in waiting if (found := self._claim(one))), None)
            if lease is None:
                time.sleep(POLL_SECONDS)
                continue
            over = threading.Event()
            heart = threading.Thread(target=self._keep, args=(lease, over), daemon=True)
            heart.start()
            try:
                if not lease.shard.is_made:  # made between the look and the claim
                    yield lease
            finally:
                over.set()
                lease.release()

    def _keep(self, lease: Lease, over: threading.Event) -> None:
        while not over.wait(self.beat):
            with contextlib.suppress(OSError):  # a full disk may be better by the next beat
                lease.beat()

    def _claim(self, shard: Shard) -> Lease | None:
        path = shard.lease
        holder = Holder(socket.gethostname(), os.getpid(), uuid.uuid4().hex)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x") as file:
                file.write(_text(holder))
            return Lease(shard, holder)
        except FileExistsError:
            if not self._is_silent(path):
                return None
        _write(path, holder)
        # Of several that take it over at once the last one has it.
        found = read_lease(path)
        return Lease(shard, holder) if found is not None and found.is_same_as(holder) else None

    def _is_silent(self, path: Path) -> bool:
        """Whether the lease has not changed for too long, by this process's own clock."""
        try:
            text = path.read_text()
        except FileNotFoundError:
            return False
        known, since = self._seen.get(path, (None, 0.0))
        if text != known:
            self._seen[path] = (text, time.monotonic())
            return False
        return time.monotonic() - since > self.silent


def read_lease(path: Path) -> Holder | None:
    """Who holds a shard; None where nobody does, or where the file is being written."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def held_by(folders: Sequence[Path], process: int) -> dict[Path, Holder]:
    """The leases that a process of this machine holds in these steps."""
    found: dict[Path, Holder] = {}
    for folder in folders:
        for path in (folder / FOLDER_NAME).glob("part-*"):
            holder = read_lease(path)
            if holder and (holder.host, holder.process) == (socket.gethostname(), process):
                found[path] = holder
    return found


def forget_leases(folder: Path) -> None:
    """Deletes a step's leases: before its workers start, and when it is finished."""
    shutil.rmtree(folder / FOLDER_NAME, ignore_errors=True)


def _unmade(shards: Sequence[Shard]) -> list[Shard]:
    return [shard for shard in shards if not shard.is_made]


def _counted(holder: Holder, beat: int = 0, done: int = 0) -> Holder:
    return Holder(holder.host, holder.process, holder.nonce, holder.beat + beat, holder.done + done)


def _text(holder: Holder) -> str:
    return json.dumps(
        {
            "host": holder.host,
            "process": holder.process,
            "nonce": holder.nonce,
            "beat": holder.beat,
            "done": holder.done,
        }
    )


def _write(path: Path, holder: Holder) -> None:
    # Not fsynced: a lease need not outlive its machine.
    temporary = path.with_name(f".{path.name}.{holder.nonce[:8]}")
    temporary.write_text(_text(holder))
    temporary.replace(path)
