"""`python -m align.launch.forks`: imports the libraries, then becomes in a fork what is ordered;
`align.stages.forks` starts it and holds the other end of its standard input, a socket.

It must compute nothing: OpenMP's threads do not survive a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.stages.forks import MESSAGE_BYTES

IMPORTED = (
    *(f"align.training.{name}" for name in ("policy", "policy_trainer", "sft", "reward")),
    *(f"align.training.{name}" for name in ("batches", "fixed_logps", "usable", "trl_dpo")),
    *("align.inference.decode", "align.rewards.classifier", "align.stages.divergence"),
    *("align.launch.process", "align.stages.training", "align.stages.sampling"),
    *("align.data.human", "accelerate.commands.launch"),
)
"""What stages import when they begin."""
WHERE_INSTALLED = ("deepspeed",)
"""What accelerate imports besides."""


@dataclass(frozen=True)
class Order:
    """What a fork is to become."""

    argv: tuple[str, ...]
    """`PYTHON -m MODULE WORD ...`."""
    environment: dict[str, str]
    """Added to this process's."""
    descriptors: tuple[int, ...]
    """Standard input, the log, and where to reply if that is asked for."""


def main() -> int:
    """The exit status: of this process where nobody wants more forks, or of what a fork became."""
    status = [1]
    # Registered first, so it comes last. Taking the interpreter down too would copy the pages that
    # forks share, a third of a second each.
    atexit.register(lambda: _leave(status[0]))
    orders = socket.socket(fileno=os.dup(0))
    os.close(os.pidfd_open(os.getpid()))  # a kernel without them fails here, where nothing runs yet
    environment = dict(os.environ)
    import_libraries()
    gc.freeze()  # the collector would copy them too
    order = _serve(orders)
    if order is not None:
        # Some libraries set variables when they are imported, which others read: TRL silences vLLM.
        os.environ.clear()
        os.environ.update(environment | order.environment)
        module = _become(order)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
    status[0] = 0
    return 0


def import_libraries() -> None:
    """What forks share."""
    for name in (*IMPORTED, *filter(importlib.util.find_spec, WHERE_INSTALLED)):
        importlib.import_module(name)


def _serve(orders: socket.socket) -> Order | None:
    """Forks for each order; returns it in the fork, and None here when the last order came."""
    running: dict[int, int] = {}  # the process of each descriptor
    while True:
        ready = select.select([orders.fileno(), *running], [], [])[0]
        for descriptor in set(ready) & set(running):
            pid = running.pop(descriptor)
            os.close(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            orders.send(json.dumps({"pid": pid, "code": code}).encode())
        if orders.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(orders, MESSAGE_BYTES, 3)
        if not message:
            for pid in running.values():
                os.killpg(pid, signal.SIGKILL)
            return None
        said = json.loads(message)
        pid = os.fork()
        if pid == 0:
            orders.close()
            for other in running:
                os.close(other)
            return Order(tuple(said["argv"]), said["environment"], tuple(descriptors))
        os.setpgid(pid, pid)  # here, so that the group is there before anyone hears of it
        for descriptor in descriptors:
            os.close(descriptor)
        running[os.pidfd_open(pid)] = pid
        orders.send(json.dumps({"pid": pid}).encode())


def _become(order: Order) -> str:
    """Makes this process what the command line would have started; returns its module."""
    import numpy

    stdin, log, *reply = order.descriptors
    for ours, theirs in ((0, stdin), (1, log), (2, log)):
        os.dup2(theirs, ours)
    os.close(stdin)
    os.close(log)
    words = list(order.argv[2:])
    if words[0] == "accelerate.commands.launch":
        words = _launched(words[1:])
    for descriptor in reply:
        words += ["--reply", str(descriptor)]
    sys.argv = words
    numpy.random.seed()  # the standard library's generator does so by itself after a fork
    with contextlib.suppress(OSError):  # a name for `top`; the command line stays that of this file
        Path("/proc/self/comm").write_text(words[0].removeprefix("align.launch."))
    return words[0]


def _leave(status: int) -> None:
    # What the interpreter would do for files that nobody closed; those of the imports are frozen.
    files = [one for one in gc.get_objects() if issubclass(type(one), io.IOBase) and not one.closed]
    for one in files:
        one.flush()
    for one in files:  # a compressed one has an end, which goes to another, open file
        if type(one).__module__ != "_io":
            one.close()
    for one in files:
        if not one.closed:
            one.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _launched(words: Sequence[str]) -> list[str]:
    """What `accelerate launch` with these words starts, where that is one process on the CPU: sets
    the environment and returns the module and its words.
    """
    import torch
    from accelerate.commands.launch import (
        _validate_launch_command,  # pyright: ignore[reportPrivateUsage]
        launch_command_parser,
    )
    from accelerate.utils import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

    named = [os.environ.get(f"{of}_NUM_THREADS") for of in ("OMP", "MKL")]
    asked, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if asked.multi_gpu:  # through torchrun, on the CPU too
        os.environ.update(prepare_multi_gpu_env(asked))
        rank = {f"{of}RANK": "0" for of in ("", "LOCAL_", "GROUP_", "ROLE_")}
        size = {f"{of}WORLD_SIZE": "1" for of in ("", "LOCAL_", "GROUP_", "ROLE_")}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(asked.main_process_port)}
        os.environ.update(rank | size | address)
    else:
        os.environ.update(prepare_simple_launcher_cmd_env(asked)[1])
    if not any(named):  # else torch read it when it was imported, up to the number of cores
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return [asked.training_script, *asked.training_script_args]


if __name__ == "__main__":
    sys.exit(main())
