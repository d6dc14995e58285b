"""Runs a command that ends with whoever holds the other end of this process's standard input.

The command's whole group ends, however the holder went (SIGKILL included): the kernel closes the
pipe. Started as a file in a session of its own; the standard library alone, so that it costs
nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 5.0
"""Between SIGTERM, at which vLLM frees its shared memory, and SIGKILL."""


def main() -> None:
    """Does not return: at the end it kills its own group, which holds all that the command
    started.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler, unlike SIG_IGN, is not inherited
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    child.wait()
    os.killpg(0, signal.SIGKILL)


def _watch(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
