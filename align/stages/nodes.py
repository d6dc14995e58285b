"""Several nodes, one shared folder: the first node leads and writes manifests, the others do what
it announces.

All words between nodes are small files under `OUT/.nodes`. A follower joins with a nonce that the
leader repeats beside its own, and every file names its writer's, so that words of an earlier run
are never believed, not even of one whose nodes still live; a heartbeat that stands still means that
a node is gone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

from align.errors import AlignError, StageError
from align.records import Json
from align.stages.manifest import write_json

JOIN_SECONDS = 600.0
SILENT_SECONDS = 60.0
BEAT_SECONDS = 1.0
POLL_SECONDS = 0.2
LAST_BEAT_SECONDS = 5.0
"""How long a failed node listens for the others' hearts before it says that one of them stopped."""


@dataclass(frozen=True)
class Order:
    """What the leader asks of the followers: run these steps, or leave with this status."""

    sequence: int
    steps: tuple[str, ...] = ()
    exit_status: int | None = None
    cause: str = ""

    def failure(self) -> StageError:
        """The leader's, with its exit status."""
        error = StageError(f"node 0: {self.cause}")
        error.exit_status = self.exit_status or error.exit_status
        return error


class Nodes:
    """This node's view of the others; with one node everything is a no-op."""

    def __init__(self, out: Path, count: int, rank: int) -> None:
        self.count, self.rank = count, rank
        self._folder = out / ".nodes"
        self._nonce = uuid.uuid4().hex
        self._members: dict[int, str] = {rank: self._nonce}
        self._others = range(1, count) if rank == 0 else range(1)
        self._sequence = 0
        self._beats: dict[int, tuple[int, float]] = {}
        self._stop = threading.Event()

    @property
    def leads(self) -> bool:
        """True on the first node."""
        return self.rank == 0

    def __enter__(self) -> Nodes:
        if self.count > 1:
            if self.leads:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir(parents=True, exist_ok=True)
            threading.Thread(target=self._beat, daemon=True).start()
            self._join()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def announce(self, steps: tuple[str, ...]) -> None:
        """Leader: the followers run these steps too."""
        self._sequence += 1
        self._order(Order(self._sequence, steps))

    def dismiss(self, exit_status: int, cause: str = "") -> None:
        """Leader: the followers leave with this status.

        Where the word cannot be written (a full disk, for one), the list of members is deleted
        instead, which needs no room: followers without it leave too.
        """
        self._sequence += 1
        try:
            self._order(Order(self._sequence, (), exit_status, cause))
        except OSError:
            time.sleep(5 * POLL_SECONDS)  # who is just joining waits for that list
            with contextlib.suppress(OSError):
                self._path("members").unlink(missing_ok=True)

    def next_order(self) -> Order:
        """Follower: waits for the leader's next order."""
        while True:
            found = self._hear("order", 0)
            if found is not None and found["sequence"] == self._sequence + 1:
                self._sequence += 1
                steps = cast("list[str]", found["steps"])
                status = cast("int | None", found["exit_status"])
                return Order(self._sequence, tuple(steps), status, str(found["cause"]))
            self.check_beats()
            time.sleep(POLL_SECONDS)

    def report(self, cause: str = "") -> None:
        """Follower: its part of the current order is done, or failed for `cause`."""
        self._write(f"done-{self.rank}", {"sequence": self._sequence, "cause": cause})

    def check(self) -> None:
        """Raises `StageError` where another node has failed or fallen silent; called while a step
        runs.
        """
        for rank in self._others:
            cause = self._end_of(rank)
            if cause is not None:
                raise StageError(f"node {rank}: {cause}")
        self.check_beats()

    def wait_for_followers(self) -> None:
        """Leader: returns when every follower has finished the current order."""
        waiting = set(self._others)
        while waiting:
            self.check()
            for rank in sorted(waiting):
                found = self._hear(f"done-{rank}", rank)
                if found is not None and found["sequence"] == self._sequence:
                    if found["cause"]:  # said since `check` looked
                        raise StageError(f"node {rank}: {found['cause']}")
                    waiting.discard(rank)
            if waiting:
                time.sleep(POLL_SECONDS)

    def check_beats(self) -> None:
        """Raises `StageError` where a node's heartbeat has stood still by this node's own clock."""
        members = {} if self.leads else self._read("members")
        if members is None:
            raise StageError(
                "node 0 has left and could not say why, or is being started again; look at its "
                "screen, then start this node again too"
            )
        if not self.leads and members.get("0") != self._members[0]:
            raise StageError(
                "node 0 was started again, and this node belongs to its earlier run; start this "
                "one again too"
            )
        for rank in self._others:
            beat = self._beat_of(rank)
            known, since = self._beats.get(rank, (None, time.monotonic()))
            if beat != known:
                self._beats[rank] = (beat, time.monotonic())
            elif time.monotonic() - since > SILENT_SECONDS:
                raise StageError(
                    f"node {rank} has not answered for {SILENT_SECONDS:.0f} s; is it still running?"
                )

    def blame(self, error: AlignError) -> AlignError:
        """What to say of a step that failed here: `error`, unless another node is gone without a
        word, of which the processes here only lost the connection.
        """
        silent = {rank: self._beat_of(rank) for rank in self._others}
        deadline = time.monotonic() + LAST_BEAT_SECONDS
        while silent and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            silent = {
                rank: beat
                for rank, beat in silent.items()
                if self._beat_of(rank) == beat and self._end_of(rank) is None
            }
        if not silent:
            return error
        return StageError(f"node {min(silent)} has stopped answering; here: {error}")

    def _beat_of(self, rank: int) -> int:
        found = self._hear(f"beat-{rank}", rank)
        return -1 if found is None else int(str(found["beat"]))

    def _end_of(self, rank: int) -> str | None:
        """Why another node has left or is about to; None while it works."""
        found = self._hear(f"done-{rank}" if self.leads else "order", rank)
        if found is None or (not self.leads and found["exit_status"] is None):
            return None
        return str(found["cause"]) or None

    def _join(self) -> None:
        deadline = time.monotonic() + JOIN_SECONDS
        while time.monotonic() < deadline:
            # the leader clears the folder as it starts, also under the hands of who writes there
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                if self._is_joined():
                    return
            time.sleep(POLL_SECONDS)
        raise StageError(
            f"node {self.rank} of {self.count} waited {JOIN_SECONDS:.0f} s for the others in "
            f"{self._folder}; start "
            "`align run` with the same RECIPE, --out and --nodes on every node, over a folder "
            "that all of them share"
        )

    def _is_joined(self) -> bool:
        if self.leads:
            for rank in self._others:
                found = self._read(f"join-{rank}")
                if found is not None:
                    self._members[rank] = str(found["nonce"])
            self._write("members", {str(rank): name for rank, name in self._members.items()})
            return len(self._members) == self.count
        self._write(f"join-{self.rank}", {})
        members = self._read("members") or {}
        if members.get(str(self.rank)) != self._nonce:
            return False
        self._members[0] = str(members["0"])
        return True

    def _order(self, order: Order) -> None:
        if self.count > 1:
            self._write(
                "order",
                {
                    "sequence": order.sequence,
                    "steps": list(order.steps),
                    "exit_status": order.exit_status,
                    "cause": order.cause,
                },
            )

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_SECONDS):
            beat += 1
            # a cleared folder or a full disk may be better by the next beat
            with contextlib.suppress(OSError):
                self._write(f"beat-{self.rank}", {"beat": beat})

    def _write(self, name: str, value: Mapping[str, Json]) -> None:
        write_json(self._path(name), {**value, "nonce": self._nonce})

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _hear(self, name: str, rank: int) -> dict[str, Json] | None:
        """What a member of this run wrote; None for words of anybody else."""
        found = self._read(name)
        return found if found is not None and found["nonce"] == self._members.get(rank) else None

    def _read(self, name: str) -> dict[str, Json] | None:
        try:
            return json.loads(self._path(name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
