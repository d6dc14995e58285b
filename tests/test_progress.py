"""What a step's processes say of themselves, on however many nodes they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from align.progress import WORK_NAME, work_seconds

IMPORTS = """
import os, sys, time
from pathlib import Path
from align.progress import counted_as_work
"""
WORK = """
for _ in range(2):
    with counted_as_work(Path(sys.argv[1])):
        time.sleep(0.02)
"""
SAME_NUMBER = f"{IMPORTS}\nos.getpid = lambda: 7{WORK}"
FORKED = f"{IMPORTS}\nchild = os.fork(){WORK}\nif child: os.waitpid(child, 0)"


def _run(code: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


def _seconds(folder: Path) -> list[float]:
    return [float(line.split()[1]) for line in (folder / WORK_NAME).read_text().splitlines()]


def test_processes_of_two_nodes_that_share_a_number_are_not_added_up(tmp_path: Path) -> None:
    """Each works twice, so the larger of the two sums."""
    _run(SAME_NUMBER, tmp_path)
    _run(SAME_NUMBER, tmp_path)
    a, b, c, d = _seconds(tmp_path)
    assert min(a, b, c, d) >= 0.02
    assert work_seconds(tmp_path) == max(a + b, c + d)


def test_forks_that_share_what_was_imported_are_not_added_up(tmp_path: Path) -> None:
    """Side by side, so no two of the four lines need come from the same one."""
    _run(FORKED, tmp_path)
    assert len(_seconds(tmp_path)) == 4
    assert work_seconds(tmp_path) < sum(_seconds(tmp_path)) - 0.039
