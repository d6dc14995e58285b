"""The process at the other end of `align.rewards.process`: `python -m align.rewards.worker
module:function SECONDS BYTES [ARGUMENT]`.

Reads one JSON value a line and answers `{"value": ..., "error": ...}`, first of all with one such
line when the function has been imported. Ends when its input does. Standard library only.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TextIO, cast


def main(function: str, seconds: float, memory_bytes: int, *argument: str) -> None:
    """Serves `function`, or what it returns for the argument, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints must not mix with the answers
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action ends the process inside the kernel: Python code cannot delay or catch it.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    module, _, name = function.partition(":")
    try:
        found: Callable[..., object] = vars(importlib.import_module(module))[name]
        call = cast(Callable[[object], object], found(*argument) if argument else found)
    except Exception as error:  # reported to the pool, which raises
        _answer(answers, None, f"{type(error).__name__}: {error}")
        return
    _answer(answers, None, None)
    for line in sys.stdin:
        value, reason = None, None
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            value = call(json.loads(line))
        except Exception as error:  # reported with the item
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(answers, value, reason)


def _answer(answers: TextIO, value: object, error: str | None) -> None:
    answers.write(json.dumps({"value": value, "error": error}) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
