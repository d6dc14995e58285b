"""Child processes of a step: success, failure in one line, and no orphans."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.errors import StageError
from align.progress import Progress, State
from align.stages.children import Command, open_log, start, stop
from align.stages.execute import execute


def _python(code: str, tmp_path: Path) -> Command:
    return Command((sys.executable, "-c", code), tmp_path / "step.log", {})


def test_a_log_begins_with_what_can_be_typed(tmp_path: Path) -> None:
    words = ("python", "-m", "align.launch.sft", "my runs/a/recipe.yaml")
    with open_log(Command(words, tmp_path / "step.log", {})):
        assert shlex.split((tmp_path / "step.log").read_text()) == ["$", *words]


def test_a_child_that_does_not_listen_is_stopped_like_any_other(tmp_path: Path) -> None:
    """A kept worker may die between the look at it and the order."""
    code = "import os, time; os.close(0); print('deaf', flush=True); time.sleep(60)"
    child = start(_python(code, tmp_path))
    while "deaf" not in (tmp_path / "step.log").read_text().splitlines():
        time.sleep(0.02)
    assert child.stdin is not None
    child.stdin.write(b"an order")
    with pytest.raises(BrokenPipeError):
        child.stdin.flush()
    stop(child)
    assert child.poll() == -signal.SIGTERM and child.stdin.closed


def test_progress_of_the_child_is_shown(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from align.progress import Progress\n"
        f"with Progress(Path({str(tmp_path)!r}), 'sampling', total=4, unit='prompts') as bar:\n"
        "    for _ in range(4): bar.advance(1, '10 tokens/s'); time.sleep(.25)\n"
    )
    seen: list[State] = []
    execute(
        [_python(code, tmp_path)], [tmp_path], lambda state: seen.append(state) if state else None
    )
    assert [s.label for s in seen[:1]] == ["sampling"]
    assert seen[-1].done == 4 and seen[-1].total == 4 and seen[-1].note == "10 tokens/s"
    assert not (tmp_path / "progress.json").exists()


def test_failure_is_one_line_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"^exit status 1: ValueError: no tokens \(log: .*step\.log\)$"
    ) as caught:
        execute(
            [_python("raise ValueError('no tokens')", tmp_path)], [tmp_path], lambda state: None
        )
    assert caught.value.exit_status == 3


def test_a_full_disk_is_the_likely_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log ends where the disk did, so that its last line says nothing of it."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=4096))
    said = r"^exit status 1: no tokens; the disk of .* has 4,096 bytes left: make room, and the"
    with pytest.raises(StageError, match=said):
        execute([_python("exit('no tokens')", tmp_path)], [tmp_path], lambda state: None)


def test_a_child_that_is_killed_says_so(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(StageError, match=r"killed by signal 9 \(SIGKILL\)"):
        execute([_python(code, tmp_path)], [tmp_path], lambda state: None)


def test_one_failure_stops_the_others(tmp_path: Path) -> None:
    mark = tmp_path / "late"
    slow = _python(f"import time; time.sleep(30); open({str(mark)!r}, 'w')", tmp_path)
    began = time.monotonic()
    with pytest.raises(StageError):
        execute([slow, _python("raise SystemExit(4)", tmp_path)], [tmp_path], lambda state: None)
    assert time.monotonic() - began < 20
    assert not mark.exists()


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL leaves the parent no chance to clean up: the closed pipe on standard input must end
    the child.
    """
    child = (
        "import os, sys\n"
        "from align.launch.lifeline import Lifeline\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "Lifeline().next_order()\n"
    )
    pid_file = tmp_path / "pid"
    parent = (
        "import sys; from pathlib import Path; from align.stages.children import Command\n"
        "from align.stages.execute import execute\n"
        f"execute([Command((sys.executable, '-c', {child!r}, {str(pid_file)!r}), "
        f"Path({str(tmp_path)!r}) / 'log', {{}})],"
        f" [Path({str(tmp_path)!r})], lambda state: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(pid_file.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"child {pid} outlived its parent")


def test_progress_without_a_folder_writes_nothing(tmp_path: Path) -> None:
    with Progress(None, "x", total=1, unit="steps") as bar:
        bar.advance()
    assert list(tmp_path.iterdir()) == []
