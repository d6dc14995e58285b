"""A deadline for checks that run in this process: a pattern from a recipe can take longer than the
universe on a text that a policy wrote.

The kernel counts processor seconds and sends a signal, which Python's pattern matching lets in
every few thousand steps. Only the main thread gets signals: elsewhere (`align serve-reward`) there
is no deadline.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

SECONDS = 5.0
"""Processor time of one check; honest ones take milliseconds."""

TIME_OUTS = ("of processor time", "no answer within", "timed out", "timeout")
"""How the errors of scores that ran out of time are worded."""

Result = TypeVar("Result")


class Overdue(Exception):
    """A check took longer than it may."""

    def __init__(self) -> None:
        super().__init__(f"stopped after {SECONDS:g} s of processor time")


def in_time(function: Callable[[], Result]) -> Result:
    """What `function` returns. Raises `Overdue` where it takes more than `SECONDS`."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL if before is None else before)


def is_late(error: str | None) -> bool:
    """Whether a score failed by a missed deadline: that depends on the machine, not on the sample.

    >>> is_late("math_verify: no answer within 50 s"), is_late("2 values for 3 samples")
    (True, False)
    """
    return any(text in (error or "") for text in TIME_OUTS)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Overdue
