"""Forks of a process that has imported the libraries: what they are, and what ends them."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from align.resources import accelerate_config
from align.stages.children import Command, Process, start, stop
from align.stages.forks import MESSAGE_BYTES, Forked, Forks

pytestmark = pytest.mark.distributed

SHOWN = """
import json, os, stat, sys
import align.launch, torch
place = sys.argv[sys.argv.index("--to") + 1]
said = {
    "argv": sys.argv,
    "name": __name__,
    "environment": dict(os.environ),
    "leads": os.getpgid(0) == os.getpid(),
    "stdin": stat.S_ISFIFO(os.fstat(0).st_mode),
    "threads": torch.get_num_threads(),
}
print("to the log")
print("too", file=sys.stderr)
if "--reply" in sys.argv:
    os.write(int(sys.argv[sys.argv.index("--reply") + 1]), b"done")
open(place, "w").write(json.dumps(said))
"""
DRAWS = """
import random, numpy
print(numpy.random.random(), random.random())
"""
ENDS = """
import gzip, os, signal, sys
how = sys.argv[1]
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "raises":
    raise ValueError("no tokens")
left_open = [open(sys.argv[2] + mode, mode + "b") for mode in ("w", "w+")]
for file in left_open:
    file.write(b"not closed")
compressed = gzip.open(sys.argv[2] + "gz", "wt")
compressed.write("not closed")
sys.kept = [*left_open, compressed]  # as a module keeps what is its own
sys.exit({"nothing": None, "words": "no tokens", "number": 5}[how])
"""
SLEEPS = """
import os, subprocess, sys, time
from align.launch.lifeline import Lifeline
Lifeline()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of modules that commands may name."""
    folder = tmp_path_factory.mktemp("modules")
    for name, text in {"shown": SHOWN, "draws": DRAWS, "ends": ENDS, "sleeps": SLEEPS}.items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parents[2])]))
        yield folder


@pytest.fixture(scope="module")
def forks(modules: Path) -> Iterator[Forks]:
    """Importing takes seconds, so the tests that leave it whole share it."""
    said: list[str] = []
    with closing(Forks(modules / "forks.log", said.append)) as found:
        yield found
    assert said == []


def command(log: Path, *words: str, environment: dict[str, str] | None = None) -> Command:
    argv = (sys.executable, "-m", *words)
    return Command(argv, log, environment or {}, forks=True)


@pytest.mark.parametrize(
    "launcher",
    [
        (),
        (
            *("accelerate.commands.launch", "--config_file", str(accelerate_config("cpu"))),
            *("--num_processes", "1", "--main_process_port", "0", "-m"),
        ),
    ],
    ids=["python", "accelerate"],
)
def test_a_fork_is_what_its_command_line_starts(
    launcher: tuple[str, ...], forks: Forks, tmp_path: Path
) -> None:
    """The same words, environment, descriptors and threads as a process of its own."""

    def run(begin: Callable[..., Process], name: str) -> dict[str, object]:
        place, log = tmp_path / "said.json", tmp_path / f"{name}.log"
        words = (*launcher, "shown", "--to", str(place))
        child = begin(command(log, *words, environment={"ALIGN_TEST": "x"}), ("--last",))
        assert child.wait(60) == 0, log.read_text()
        stop(child)
        assert log.read_text().startswith(f"\n$ {sys.executable} -m {' '.join(words)}\n")
        assert {"to the log", "too"} <= set(log.read_text().splitlines())
        return json.loads(place.read_text())

    anew, forked = run(start, "anew"), run(forks.start, "forked")
    own, theirs = anew.pop("environment"), forked.pop("environment")
    assert isinstance(own, dict) and isinstance(theirs, dict)
    # torchrun's agent, which has no part in one process, and a port that is free
    agent = ("TORCHELASTIC", "ROLE_NAME", "TORCH_NCCL", "MASTER_PORT", "PYTEST_CURRENT_TEST")
    for environment in (own, theirs):
        for name in [name for name in environment if name.startswith(agent)]:
            del environment[name]
    assert theirs == own
    assert theirs["ALIGN_TEST"] == "x" and (not launcher or theirs["WORLD_SIZE"] == "1")
    # torchrun starts the process in the launcher's group, which align run knows by its leader
    assert forked == anew | {"leads": True}


def test_a_fork_replies_on_the_descriptor_that_it_is_told(forks: Forks, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    words = ("shown", "--to", str(tmp_path / "said.json"))
    child = forks.start(command(tmp_path / "log", *words), reply=theirs)
    os.close(theirs)
    assert child.wait(60) == 0
    assert os.read(ours, 100) == b"done"
    assert os.read(ours, 100) == b""  # nobody else holds the other end
    os.close(ours)
    stop(child)


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("nothing", 0, ""),
        ("number", 5, ""),
        ("words", 1, "no tokens"),
        ("raises", 1, "ValueError: no tokens"),
        ("killed", -signal.SIGKILL, ""),
    ],
)
def test_how_a_fork_ended(how: str, code: int, said: str, forks: Forks, tmp_path: Path) -> None:
    child = forks.start(command(tmp_path / "log", "ends", how, str(tmp_path / "left open")))
    assert child.wait(60) == code
    assert child.poll() == code
    assert said in (tmp_path / "log").read_text().splitlines()[-1]
    if how in ("nothing", "number", "words"):
        for mode in ("w", "w+"):
            assert (tmp_path / f"left open{mode}").read_text() == "not closed"
        assert gzip.decompress((tmp_path / "left opengz").read_bytes()) == b"not closed"
    stop(child)


def test_waiting_has_an_end_and_stopping_takes_all_along(forks: Forks, tmp_path: Path) -> None:
    child = forks.start(command(tmp_path / "log", "sleeps", str(tmp_path / "pids")))
    own, grandchild = _pids(tmp_path / "pids")
    assert own == child.pid
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    stop(child)
    assert child.poll() == -signal.SIGTERM
    _wait_for_the_end(grandchild)


@pytest.mark.parametrize(("name", "value"), [("OMP_NUM_THREADS", "64"), ("MKL_NUM_THREADS", "1")])
def test_threads_that_the_user_named_are_those_of_a_launch(
    name: str, value: str, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch takes no more than there are cores, and MKL's own number before OpenMP's."""
    monkeypatch.setenv(name, value)
    config = ("accelerate.commands.launch", "--config_file", str(accelerate_config("cpu")))
    found: list[int] = []
    with closing(Forks(tmp_path / "forks.log", pytest.fail)) as forks:
        for begin in (start, forks.start):
            words = (*config, "--num_processes", "1", "--main_process_port", "0", "-m", "shown")
            child = begin(command(tmp_path / "log", *words, "--to", str(tmp_path / "said.json")))
            assert child.wait(60) == 0, (tmp_path / "log").read_text()
            stop(child)
            found.append(json.loads((tmp_path / "said.json").read_text())["threads"])
    assert found[0] == found[1]


def test_forks_draw_what_no_other_does(forks: Forks, tmp_path: Path) -> None:
    """As processes of their own do; NumPy's generator is seeded when it is imported."""
    for name in ("one", "other"):
        child = forks.start(command(tmp_path / name, "draws"))
        assert child.wait(60) == 0
        stop(child)
    one, other = ((tmp_path / name).read_text().split()[-2:] for name in ("one", "other"))
    assert not set(one) & set(other)


def test_a_process_number_that_is_given_again_has_no_code_yet(forks: Forks, tmp_path: Path) -> None:
    words = ("ends", "number", str(tmp_path / "left open"))
    first = forks.start(command(tmp_path / "log", *words))
    assert isinstance(first, Forked)
    assert first.wait(60) == 5
    stop(first)
    # the numbers that come next had processes before, which ended well
    first._source._codes.update(dict.fromkeys(range(first.pid + 1, first.pid + 10_000), 0))  # pyright: ignore
    again = forks.start(command(tmp_path / "log", *words))
    assert again.wait(60) == 5
    stop(again)


def test_an_order_that_is_too_long_starts_a_process(forks: Forks, tmp_path: Path) -> None:
    environment = {f"ALIGN_{i}": "x" * (MESSAGE_BYTES // 2) for i in range(2)}
    words = ("ends", "number", str(tmp_path / "left open"))
    child = forks.start(command(tmp_path / "log", *words, environment=environment))
    assert isinstance(child, subprocess.Popen)
    assert child.wait(60) == 5
    stop(child)


def test_other_commands_have_processes_of_their_own(forks: Forks, tmp_path: Path) -> None:
    child = forks.start(Command((sys.executable, "-c", "exit(7)"), tmp_path / "log", {}))
    assert isinstance(child, subprocess.Popen)
    assert child.wait(60) == 7
    stop(child)


def test_without_its_source_a_fork_is_lost_and_the_next_starts_anew(
    modules: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with closing(Forks(tmp_path / "forks.log", said.append)) as forks:
        child = forks.start(command(tmp_path / "log", "sleeps", str(tmp_path / "pids")))
        own, _ = _pids(tmp_path / "pids")
        os.kill(int(_parent(own)), signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        stop(child)
        _wait_for_the_end(own)
        assert said == []
        other = forks.start(
            command(tmp_path / "log", "ends", "number", str(tmp_path / "left open"))
        )
        assert other.wait(60) == 5
        stop(other)
        assert said == [
            f"nothing to fork from, so a new process starts; see {tmp_path / 'forks.log'}"
        ]


def test_forks_end_with_a_killed_parent(modules: Path, tmp_path: Path) -> None:
    parent = (
        "import sys; from pathlib import Path\n"
        "from align.stages.children import Command\n"
        "from contextlib import closing\n"
        "from align.stages.forks import Forks\n"
        f"place = Path({str(tmp_path)!r})\n"
        "with closing(Forks(place / 'forks.log', print)) as forks:\n"
        "    argv = (sys.executable, '-m', 'sleeps', str(place / 'pids'))\n"
        "    forks.start(Command(argv, place / 'log', {}, forks=True)).wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    own, grandchild = _pids(tmp_path / "pids")
    source = int(_parent(own))
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pid in (own, grandchild, source):
        _wait_for_the_end(pid)


def _pids(path: Path) -> tuple[int, int]:
    deadline = time.monotonic() + 120
    while not (path.exists() and len(path.read_text().split()) == 2):
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.05)
    own, child = path.read_text().split()
    return int(own), int(child)


def _parent(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]


def _wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")
