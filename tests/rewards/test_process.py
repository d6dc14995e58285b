"""The killable pool: order, deadlines in processor and wall time, dying workers, noise, memory."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from align.errors import SetupError
from align.rewards.process import Outcome, WorkerPool


def misbehave(item: list[object]) -> object:
    """Runs inside the worker: what the first word of the item says."""
    kind, value = item
    if kind == "double":
        print("noise on standard output")
        return 2 * float(str(value))
    if kind == "spin":
        while True:
            pass
    if kind == "hold":  # one C call that never gives Python back control
        return 10 ** (10**10)
    if kind == "sleep":
        time.sleep(3600)
    if kind == "die":
        os._exit(7)
    if kind == "crash":
        ctypes.string_at(0)
    if kind == "memory":
        return len(bytearray(1 << 40))
    raise ValueError(f"no {kind}")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    opened = WorkerPool("tests.rewards.test_process:misbehave", workers=2, seconds=0.5)
    yield opened
    opened.close()


def test_outcomes_keep_the_order_of_the_items(pool: WorkerPool) -> None:
    items: list[list[object]] = [["double", i] for i in range(50)]
    assert pool.map(items) == [Outcome(2.0 * i) for i in range(50)]  # pyright: ignore[reportArgumentType]
    assert pool.map([]) == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("spin", "stopped after 0.5 s of processor time"),
        ("hold", "stopped after 0.5 s of processor time"),
        ("sleep", "no answer within 5 s"),
        ("die", "the worker died with status 7"),
        ("crash", "the worker died with status -11"),
        ("memory", "MemoryError: "),
        ("nothing", "ValueError: no nothing"),
    ],
)
def test_one_bad_item_fails_alone(pool: WorkerPool, kind: str, error: str) -> None:
    outcomes = pool.map([["double", 1], [kind, 0], ["double", 2]])
    assert outcomes == [Outcome(2.0), Outcome(error=error), Outcome(4.0)]


def test_large_items_pass_through_the_pipe(pool: WorkerPool) -> None:
    digits = "1" + "0" * 300
    assert pool.map([["double", digits + " " * 200_000]]) == [Outcome(2.0 * float(digits))]


def test_function_that_cannot_be_imported_is_a_setup_error() -> None:
    pool = WorkerPool("align.rewards.nowhere:judge", workers=1, seconds=1)
    with pytest.raises(SetupError, match="ModuleNotFoundError"):
        pool.map([1])
    pool.close()


def test_worker_of_a_killed_parent_ends_by_itself() -> None:
    """The deadline lives in the kernel, so a worker in an endless loop cannot outlive a `kill -9`
    of the run."""
    script = (
        "import threading, time\n"
        "from align.rewards.process import WorkerPool\n"
        "pool = WorkerPool('tests.rewards.test_process:misbehave', workers=1, seconds=1.0)\n"
        "pool.map([['double', 1]])\n"
        "print(pool._workers[0].process.pid, flush=True)\n"
        "pool.map([['spin', 0]])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and is_running(worker):
        time.sleep(0.1)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie (an orphan's new parent may be slow to reap)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
