"""The process at the other end of `align.rewards.sandbox`: `python -S -m align.rewards.jail
CONFIG`.

Makes a box and runs programs in it, one a line of its input. In a `namespace` box this process is
the first of its namespace of processes, so whatever a program leaves behind ends with it; in a
`process` box there are resource limits alone. Where it starts as root, programs run as `nobody`.
Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn, TypedDict

from align.rewards.namespaces import (
    DUMPABLE,
    NOBODY,
    become_nobody,
    build_root,
    control,
    enter_namespaces,
    open_own_proc,
    separate_users,
)

TICK = 0.05
"""Seconds between looks at the memory of all programs."""
WALL_FACTOR = 4
"""Wall-clock deadline in units of the processor limit: many boxes may share one core."""
ADDRESS_FACTOR = 2
"""Address space of one program in units of the memory that all may hold: what is only reserved does
not count.
"""
ALMOST = 0.9
"""The kernel counts the limit in ticks and the usage exactly: busy, they differ by 15 %."""
OPEN_FILES = 256
READ_BYTES = 1 << 16
ERROR_BYTES = 2000

PDEATHSIG, SUBREAPER, NO_NEW_PRIVILEGES = 1, 36, 38
ADD_SEALS, SEAL_EVERYTHING, ALLOW_SEALING = 1033, 0xF, 2


class Config(TypedDict):
    """What the other end asks for; sizes are in bytes."""

    parent: int
    isolation: str
    folder: str
    mounts: list[str]
    environment: dict[str, str]
    memory: int
    disk: int
    processes: int
    output: int


class Program(TypedDict):
    """One program to run."""

    command: list[str]
    input: str
    seconds: float


def main(config: Config) -> None:
    """Starts the first process of the box, and ends when it does."""
    control(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != config["parent"]:
        os._exit(1)
    try:
        if config["isolation"] == "namespace":
            enter_namespaces()
        first = os.fork()
        if first:
            os.close(0)
            os.close(1)  # the other end shall see it where the first process dies
            os.waitpid(first, 0)
            os._exit(0)
        home = move_in(config)
    except OSError as error:
        answer({"error": str(error)})
        return
    answer({"home": home})
    serve(config, home)


def move_in(config: Config) -> str:
    """Leaves the machine for the box, gives up root and returns the writable folder."""
    is_root, is_namespace = os.geteuid() == 0, config["isolation"] == "namespace"
    home = config["folder"]
    proc = open_own_proc()
    if is_namespace:
        home = build_root(home, config["mounts"], config["disk"])
    elif is_root:
        os.chown(home, NOBODY, NOBODY)
    if is_root:
        become_nobody()
        if is_namespace:
            separate_users(proc)
    os.close(proc)
    os.chdir(home)
    control(PDEATHSIG, signal.SIGKILL)
    control(NO_NEW_PRIVILEGES, 1)
    control(SUBREAPER, 1)
    control(DUMPABLE, 0)  # programs of the same user cannot look into this process
    return home


def answer(message: dict[str, object]) -> None:
    """One line to the other end."""
    line = memoryview(json.dumps(message).encode() + b"\n")
    while line:
        line = line[os.write(1, line) :]


def serve(config: Config, home: str) -> None:
    """Writes files and runs programs until the input ends."""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "files" in request:
                for name, text in request["files"].items():
                    with open(f"{home}/{name}", "w", encoding="utf-8", errors="replace") as file:
                        file.write(text)
                answer({})
            else:
                answer(run(config, request))
        except OSError as error:
            answer({"error": str(error)})


def run(config: Config, program: Program) -> dict[str, object]:
    """Runs one program to its end or to a limit, then ends everything that it left behind."""
    given = os.memfd_create("input", os.MFD_CLOEXEC | ALLOW_SEALING)
    with open(given, "wb", closefd=False) as file:
        file.write(program["input"].encode(errors="replace"))
    os.lseek(given, 0, os.SEEK_SET)
    fcntl.fcntl(given, ADD_SEALS, SEAL_EVERYTHING)
    output, errors, fault = os.pipe(), os.pipe(), os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        become(config, program, (given, output[1], errors[1]), fault[1])
    for end in (given, output[1], errors[1], fault[1]):
        os.close(end)
    reason = read_rest(fault[0], ERROR_BYTES)
    texts = {output[0]: bytearray(), errors[0]: bytearray()}
    deadline = started + WALL_FACTOR * program["seconds"]
    stopped = watch(config, pid, texts, deadline)
    status, usage = end_all(pid)
    for end, text in texts.items():
        text += read_rest(end, config["output"] + 1 - len(text))
    if reason:
        return {"error": f"{program['command'][0]} cannot be run: {reason.decode()}"}
    processor = usage.ru_utime + usage.ru_stime
    # SIGXCPU says so itself; who ignores it is killed a second later.
    is_late = status == signal.SIGKILL and processor >= ALMOST * program["seconds"]
    if not stopped and (is_late or status == signal.SIGXCPU):
        stopped = "time"
    if not stopped and any(len(text) > config["output"] for text in texts.values()):
        stopped = "output"
    return {
        "status": os.waitstatus_to_exitcode(status),
        "stopped": stopped,
        "output": texts[output[0]].decode(errors="replace"),
        "errors": texts[errors[0]][-ERROR_BYTES:].decode(errors="replace"),
        "seconds": processor,
    }


def become(config: Config, program: Program, streams: tuple[int, int, int], fault: int) -> NoReturn:
    """Turns the forked process into the program."""
    is_namespace = config["isolation"] == "namespace"
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.setsid()
        control(PDEATHSIG, signal.SIGKILL)
        seconds = math.ceil(program["seconds"])
        set_limit(resource.RLIMIT_CPU, seconds, seconds + 1)
        for kind, most in (
            (resource.RLIMIT_AS, config["memory"] * (ADDRESS_FACTOR if is_namespace else 1)),
            (resource.RLIMIT_FSIZE, config["disk"]),
            (resource.RLIMIT_NOFILE, OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, config["processes"] + (1 if is_namespace else count_threads())),
        ):
            set_limit(kind, most, most)
        os.execvpe(program["command"][0], program["command"], config["environment"])
    except (OSError, ValueError) as error:
        os.write(fault, str(error).encode())
    finally:
        os._exit(127)


def set_limit(kind: int, soft: int, hard: int) -> None:
    """Bounds this process, within the bounds that it has."""
    outer = resource.getrlimit(kind)[1]
    if outer != resource.RLIM_INFINITY:
        soft, hard = min(soft, outer), min(hard, outer)
    resource.setrlimit(kind, (soft, hard))


def watch(config: Config, pid: int, texts: dict[int, bytearray], deadline: float) -> str:
    """Collects output until the program ends (`""`) or a limit stops it: `time`, `output`,
    `memory`.
    """
    handle = os.pidfd_open(pid)
    poll = select.poll()
    for end in (handle, *texts):
        poll.register(end, select.POLLIN)
    next_look = time.monotonic() + TICK
    try:
        while True:
            for end, _ in poll.poll(1000 * TICK):
                if end == handle:
                    return ""
                chunk = os.read(end, READ_BYTES)
                texts[end] += chunk
                if not chunk:
                    poll.unregister(end)
                if len(texts[end]) > config["output"]:
                    return "output"
            now = time.monotonic()
            if now > deadline:
                return "time"
            if now > next_look and config["isolation"] == "namespace":
                if resident_bytes() > config["memory"]:
                    return "memory"
                next_look = now + TICK
    finally:
        os.close(handle)


def resident_bytes() -> int:
    """Memory that all programs of the box hold; this process's own share is small."""
    kinds = ("RssAnon", "RssShmem")
    found = (int(each[kind].split()[0]) for each in statuses() for kind in kinds if kind in each)
    return 1024 * sum(found)


def count_threads() -> int:
    """Threads of this user: outside a namespace the process limit counts all of them."""
    mine = str(os.getuid())
    return sum(int(each["Threads"]) for each in statuses() if each["Uid"].split()[0] == mine)


def statuses() -> list[dict[str, str]]:
    """`/proc/*/status` of the processes to be seen."""
    found: list[dict[str, str]] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/status") as file:  # it may have ended
            lines = [line.partition(":") for line in file]
            found.append({key: value.strip() for key, _, value in lines})
    return found


def end_all(pid: int) -> tuple[int, resource.struct_rusage]:
    """Kills and reaps everything below this process; status and use of `pid`."""
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    while True:
        kill_children()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return status, usage


def kill_children() -> None:
    """The first process of a namespace reaches all others; elsewhere orphans come to this one."""
    with suppress(ProcessLookupError):
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
            return
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            for child in file.read().split():
                os.kill(int(child), signal.SIGKILL)


def read_rest(end: int, most: int) -> bytes:
    """What is left in a pipe, at most so many bytes; closes it."""
    with open(end, "rb") as file:
        return file.read(max(0, most))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
