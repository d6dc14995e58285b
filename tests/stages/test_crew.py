"""Several workers of one step, real processes: killed, stopped, hung, failing, kept."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from align.data.shards import parts
from align.errors import StageError
from align.stages.children import Command
from align.stages.crew import Crew
from align.stages.leases import FOLDER_NAME, read_lease

WORKER = """
import argparse, os, sys, time
from pathlib import Path
from align.data.shards import write_part
from align.launch.lifeline import Lifeline, report
from align.records import Score
from align.stages.leases import Claims, Shard
from align.stages.manifest import write_json

parser = argparse.ArgumentParser()
for name in ("--folder", "--worker", "--how"):
    parser.add_argument(name)
parser.add_argument("--reply", type=int)
parser.add_argument("--stay", action="store_true")
args = parser.parse_args()
lifeline, folder, slow = Lifeline(), Path(args.folder), 0.2
step = folder
while True:
    for lease in Claims(beat=0.1).over([Shard(step, index) for index in range(6)]):
        if args.how == "raises" or (args.how == "raises-1" and args.worker == "1"):
            name = "failure.json" if args.worker == "0" else "failure-1.json"
            said = {"cause": "ValueError: no", "exit_status": 3, "is_foreseen": False}
            write_json(step / name, said)
            sys.exit(3)
        if args.how == "hangs-0" and args.worker == "0":
            time.sleep(600)
        time.sleep(slow)
        write_part(step, lease.shard.index, [Score(str(lease.shard.index), 1.0)], Score)
    report(args.reply, [f"pid {os.getpid()}"], args.stay)
    if not args.stay:
        break
    order = lifeline.next_order()
    if not order.steps:
        break
    step, args.stay = folder / order.steps[0], order.stay
"""


@pytest.fixture
def commands(tmp_path: Path) -> Callable[..., list[Command]]:
    """`commands("raises", steps=("b",))`: two workers that behave so."""
    module = tmp_path / "crew_worker.py"
    module.write_text(WORKER)

    def make(how: str = "works", steps: tuple[str, ...] = (), count: int = 2) -> list[Command]:
        paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        return [
            Command(
                tuple(
                    f"{sys.executable} -m crew_worker --folder {tmp_path} --worker {worker} "
                    f"--how {how}".split()
                ),
                tmp_path / f"{worker}.log",
                {"PYTHONPATH": paths},
                worker,
                steps,
            )
            for worker in range(count)
        ]

    return make


def _work(crew: Crew, commands: list[Command], folder: Path, stay: bool = False) -> list[str]:
    said: list[str] = []
    crew.work(commands, [folder], lambda state: None, said.append, stay=stay)
    return said


def _signal_a_holder(folder: Path, number: signal.Signals) -> None:
    """As soon as two leases are held, one holder gets the signal."""

    def strike() -> None:
        while True:
            held = [read_lease(path) for path in (folder / FOLDER_NAME).glob("part-*")]
            holders = [one.process for one in held if one is not None]
            if len(set(holders)) == 2:
                os.kill(holders[0], number)
                return
            time.sleep(0.01)

    threading.Thread(target=strike, daemon=True).start()


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGKILL, "killed by signal 9"), (signal.SIGSTOP, "did not answer for")],
    ids=["killed", "stopped"],
)
def test_a_lost_workers_shard_is_made_by_the_other(
    commands: Callable[..., list[Command]], tmp_path: Path, number: signal.Signals, cause: str
) -> None:
    _signal_a_holder(tmp_path, number)
    with Crew(patience=60, silent=4) as crew:
        lost, _ = _work(crew, commands(), tmp_path)
    assert cause in lost and lost.startswith("lost worker")
    assert len(parts(tmp_path)) == 6


def test_a_worker_that_hangs_with_a_beating_heart_is_lost(
    commands: Callable[..., list[Command]], tmp_path: Path
) -> None:
    with Crew(patience=10, silent=60) as crew:
        lost, _ = _work(crew, commands("hangs-0"), tmp_path)
    assert "lost worker 0: it finished nothing for 10 s (run.patience)" in lost
    assert len(parts(tmp_path)) == 6


def test_one_workers_error_loses_it_and_the_same_error_twice_ends_the_step(
    commands: Callable[..., list[Command]], tmp_path: Path
) -> None:
    with Crew(patience=60) as crew:
        lost, _ = _work(crew, commands("raises-1"), tmp_path)
        assert lost == "lost worker 1: ValueError: no; others go on"
    assert len(parts(tmp_path)) == 6
    for path in parts(tmp_path):
        path.unlink()
    with Crew(patience=60) as crew, pytest.raises(StageError, match=r"ValueError: no \(log: "):
        _work(crew, commands("raises", count=3), tmp_path)


def test_kept_workers_take_the_next_step_and_a_dead_one_is_replaced(
    commands: Callable[..., list[Command]], tmp_path: Path
) -> None:
    with Crew(patience=60) as crew:
        first = _work(crew, commands(), tmp_path, stay=True)
        again = _work(crew, commands(steps=("b",)), tmp_path / "b", stay=True)
        assert sorted(first) == sorted(again) and len(set(first)) == 2
        os.kill(int(first[0].split()[1]), signal.SIGKILL)
        time.sleep(0.5)
        last = _work(crew, commands(steps=("b",)), tmp_path, stay=True)
        assert len(set(last) & set(first)) == 1 and len(set(last)) == 2
    for word in {*first, *last}:
        with pytest.raises(ProcessLookupError):
            os.kill(int(word.split()[1]), 0)
