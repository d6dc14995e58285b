"""Sends what libraries print, from Python or from C++, into a log file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def chatter_to(log: Path | None) -> Iterator[None]:
    """Appends everything written to file descriptors 1 and 2 inside to `log`; None leaves them as
    they are.

    Python's own streams may lead elsewhere (a test runner's do), and log handlers made inside keep
    the stream they find: both get one that writes to the descriptor.
    """
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # not closed: handlers made inside may outlive this
    streams = [open(number, "w", buffering=1, closefd=False) for number in (1, 2)]  # noqa: SIM115
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            yield
    finally:
        for stream in streams:
            stream.flush()
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
