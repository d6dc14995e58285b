"""Programs that try to leave the box, to outlive it or to exhaust the machine. Each test of escape
runs one hostile program and then an honest one in the same box: the run goes on."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from align.rewards.languages import PYTHON
from align.rewards.sandbox import Box, BoxError, Limits, Ran, Sandbox

SMALL = Limits(seconds=1, memory_mb=128, processes=16, disk_mb=8, output_kb=64)
INSIDE = Sandbox(limits=SMALL, mounts=(sys.base_prefix,))


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with INSIDE.open() as opened:
        yield opened


def run(box: Box, program: str, text: str = "") -> Ran:
    box.write({"main.py": program})
    return box.run((PYTHON, "-I", "-S", "main.py"), text, seconds=SMALL.seconds)


def test_input_output_errors_and_status(box: Box) -> None:
    ran = run(
        box, "import sys; print(input() * 2); print('no', file=sys.stderr); sys.exit(3)", "ab\n"
    )
    assert (ran.status, ran.output, ran.errors, ran.stopped) == (3, "abab\n", "no\n", "")
    assert run(box, "import os; os.abort()").status == -signal.SIGABRT


def test_secret_files_cannot_be_read(box: Box, tmp_path: Path) -> None:
    """Not by name, not by a walk over all that is there, not through /proc, not from variables."""
    secret = "hidden-from-programs"
    (tmp_path / "secret").write_text(secret)
    program = (
        "import os, sys\n"
        "for path in sys.stdin.read().split():\n"
        "    try: print(open(path).read())\n"
        "    except OSError as error: print(error.strerror)\n"
        "print(sorted(os.environ), os.listdir('/box'))\n"
        "print(sorted(set(os.listdir('/')) - {'root', 'opt', 'home'}))\n"
    )
    places = f"{tmp_path}/secret /proc/1/environ /proc/1/root/{tmp_path}/secret /etc/passwd"
    os.environ["ALIGN_TEST_SECRET"] = secret
    try:
        with INSIDE.open() as fresh:
            ran = run(fresh, program, places)
    finally:
        del os.environ["ALIGN_TEST_SECRET"]
    lines = ran.output.splitlines()
    assert lines[0] == lines[3] == "No such file or directory"
    assert lines[1] in ("Permission denied", "") and lines[2] == "Permission denied"
    assert secret not in ran.output
    assert lines[4] == "['HOME', 'LANG', 'PATH'] ['main.py']"
    usual = {
        "bin",
        "box",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "sbin",
        "tmp",
        "usr",
    }
    assert set(ast.literal_eval(lines[5])) <= usual | set(Path(sys.base_prefix).parts)


def test_nothing_outside_can_be_written(box: Box, tmp_path: Path) -> None:
    program = f"open('/usr/x', 'w')\nopen({str(tmp_path / 'x')!r}, 'w')"
    assert "Read-only file system" in run(box, program).errors
    assert "No such file" in run(box, program.partition("\n")[2]).errors


def test_no_network_is_reached(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        assert "Network is unreachable" in run(box, program).errors
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_process_outside_is_seen_or_signalled(box: Box) -> None:
    program = (
        "import os\n"
        "print([p for p in os.listdir('/proc') if p.isdigit()] == ['1', str(os.getpid())])\n"
        "for signal in (9, 15):\n"
        "    os.kill(1, signal)\n"
        f"try: os.kill({os.getpid()}, 9)\n"
        "except ProcessLookupError: print('none')\n"
    )
    assert run(box, program).output == "True\nnone\n"


def test_fork_bomb_is_bounded_and_leaves_nothing(box: Box) -> None:
    assert run(box, "import os\nwhile True: os.fork()").status != 0
    assert (
        run(box, "import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))").output
        == "2\n"
    )


def test_detached_children_end_with_the_program(box: Box) -> None:
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.close(1), os.close(2)\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "print('done')"
    )
    started = time.monotonic()
    assert run(box, program).output == "done\n"
    assert time.monotonic() - started < 45
    assert (
        run(box, "import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))").output
        == "2\n"
    )


@pytest.mark.parametrize(
    ("program", "limit"),
    [
        ("while True: pass", "time"),
        ("import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True: pass", "time"),
        ("import time; time.sleep(60)", "time"),
        (
            "import signal, time\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
            "while True: time.sleep(1)",
            "time",
        ),
        ("while True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
        ("found = []\nwhile True: found.append(b'x' * 1_000_000)", "memory"),
        (
            "import os\nfor _ in range(3): os.fork()\n"
            "found = []\nwhile True: found.append(b'x' * 1_000_000)",
            "memory",
        ),
    ],
    ids=["spin", "spin-on", "sleep", "ignore-signals", "print", "complain", "eat", "eat-together"],
)
def test_limit_stops_the_program_and_the_box_goes_on(box: Box, program: str, limit: str) -> None:
    ran = run(box, program)
    assert ran.stopped == limit and ran.status in (-signal.SIGKILL, -signal.SIGXCPU)
    assert len(ran.output) <= SMALL.output_kb * 1024 + (1 << 16)
    assert run(box, "print(1)").output == "1\n"


def test_disk_is_bounded(box: Box) -> None:
    """8 MiB in all: nine files of 1 MiB do not fit, though each is allowed."""
    program = (
        "import os\n"
        "try:\n"
        "    for name in range(9): open(f'{name}', 'wb').write(bytes(1 << 20))\n"
        "except OSError as error: print(error.strerror)\n"
        "for name in range(9): os.path.exists(f'{name}') and os.remove(f'{name}')\n"
    )
    assert run(box, program).output == "No space left on device\n"
    assert (
        "No space left on device"
        in run(box, "import os\nfor i in range(10**5): os.mkdir(str(i))").errors
    )


def test_missing_program_is_no_verdict_and_a_killed_box_is_noticed() -> None:
    with INSIDE.open() as box:
        with pytest.raises(BoxError, match=r"nowhere cannot be run: .*No such file"):
            box.run(("nowhere",), seconds=1)
        assert run(box, "print(1)").output == "1\n"
        box._process.kill()
        with pytest.raises(BoxError, match=r"the box (died|is gone)"):
            run(box, "print(1)")
        assert box._process.wait() == -signal.SIGKILL


def test_boxes_end_with_their_owner() -> None:
    """`kill -9` of the run: the kernel ends the box, whatever its programs ignore."""
    script = (
        "from tests.rewards.test_sandbox import INSIDE\n"
        "box = INSIDE.open()\n"
        "box.run(('sleep', '61.25'), seconds=100)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script])
    wait_for("61.25", 1)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    wait_for("61.25", 0)


def count_of(word: str) -> int:
    """Processes of this machine whose command ends with `word`."""
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found += (folder / "cmdline").read_bytes().endswith(f"{word}\0".encode())
            except OSError:
                continue
    return found


def wait_for(word: str, expected: int) -> None:
    deadline = time.monotonic() + 30
    while count_of(word) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count_of(word) == expected


def test_process_box_keeps_limits_but_hides_nothing() -> None:
    """What holds without namespaces: deadline, output, file size, clean environment, an empty
    folder that is removed. A readable file is read: that is why it must be named in the recipe."""
    sandbox = Sandbox("process", SMALL)
    shell = ("/bin/sh", "main.sh")
    with sandbox.open() as box:
        box.write(
            {"main.sh": "pwd; ls; env | grep -v PWD | sort | cut -d= -f1; cat /etc/hostname >&2"}
        )
        ran = box.run(shell, seconds=1)
        assert ran.output.splitlines() == [str(box._folder), "main.sh", "HOME", "LANG", "PATH"]
        assert ran.errors == Path("/etc/hostname").read_text()
        for program, limit in (
            ("while :; do :; done", "time"),
            ("trap '' TERM; sleep 50", "time"),
            ("yes", "output"),
        ):
            box.write({"main.sh": program})
            assert box.run(shell, seconds=1).stopped == limit
        box.write({"main.sh": "head -c 9000000 /dev/zero > big; (sleep 61.5 &); ls -s big >&2"})
        ran = box.run(shell, seconds=1)
        assert count_of("61.5") == 0
        folder = box._folder
    assert folder is not None and not folder.exists()


WITHOUT_ROOT = """
import ctypes, os, sys
user, group = os.getuid(), os.getgid()
maps = {"setgroups": "deny", "uid_map": f"65534 {user} 1", "gid_map": f"65534 {group} 1"}
assert ctypes.CDLL(None).unshare(0x10000000) == 0
for name, text in maps.items():
    open(f"/proc/self/{name}", "w").write(text)
assert os.geteuid() == 65534
from tests.rewards.test_sandbox import INSIDE, run
with INSIDE.open() as box:
    print(repr(run(box, sys.stdin.read()).output))
"""


def test_user_without_root_gets_the_same_box(tmp_path: Path) -> None:
    """By a namespace of users; here the user is `nobody` of another such namespace."""
    (tmp_path / "secret").write_text("hidden-from-programs")
    program = (
        "import os, socket\n"
        "print(os.getuid(), os.getpid() < 9, os.listdir('/box'))\n"
        f"print(os.path.exists({str(tmp_path)!r}), os.access('/usr', os.W_OK))\n"
        "try: socket.create_connection(('127.0.0.1', 9))\n"
        "except OSError as error: print(error.strerror)\n"
        "try: os.setuid(0)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOT],
        input=program,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(ran.stdout).splitlines() == [
        "65534 True ['main.py']",
        "False False",
        "Network is unreachable",
        "Invalid argument",
    ]


def test_language_installed_in_a_temporary_folder_is_shown(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho shown")
    (tmp_path / "tool").chmod(0o755)
    tmp_path.chmod(0o755)
    with Sandbox(limits=SMALL, mounts=(str(tmp_path),)).open() as box:
        assert box.run((f"{tmp_path}/tool",), seconds=1).output == "shown\n"
        assert "Read-only" in box.run(("touch", f"{tmp_path}/x"), seconds=1).errors


def test_refused_isolation_names_the_way_out() -> None:
    """In a namespace of users that allows no further ones, as on a hardened machine."""
    script = (
        "import ctypes, sys\n"
        "from align.errors import SetupError\n"
        "from align.rewards.sandbox import Sandbox\n"
        "assert ctypes.CDLL(None).unshare(0x10000000) == 0\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "try: Sandbox().open()\n"
        "except SetupError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "does not allow a box with namespaces" in ran.stdout
    assert "unshare: No space left on device" in ran.stdout
    assert "choose `sandbox: process`, which neither hides files nor the network" in ran.stdout
