"""What surrounds a vLLM server of ours: its flags, the reason in its log, the process that ends it.
With vLLM itself: tests/rewards/test_served.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from align.inference import lifeline
from align.inference.vllm_server import cause_in, flags

LOG = """
$ python -m server --an-earlier-one
ValueError: of an earlier start

$ python -m server
(APIServer pid=7) WARNING 11-29 18:02:34 [x.py:1] limits cause OSError: [Errno 24] Too many files
(APIServer pid=7) INFO 11-29 18:02:34 [x.py:1] starting
(EngineCore pid=8) ERROR 11-29 18:02:35 [core.py:1] RuntimeError: out of memory
(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_options_become_flags() -> None:
    options = {"max_model_len": 64, "enforce_eager": True, "enable_x": False, "y": None}
    assert flags({**options, "hf_overrides": {"a": 1}, "dtype": "float32"}) == [
        *("--max-model-len", "64", "--enforce-eager", "--no-enable-x"),
        *("--hf-overrides", '{"a": 1}', "--dtype", "float32"),
    ]


def test_cause_is_the_first_error_of_the_last_start() -> None:
    assert cause_in(LOG) == "RuntimeError: out of memory"
    shown = "(APIServer pid=7) pydantic.ValidationError: 1 validation error for ModelConfig\n"
    shown += "(APIServer pid=7)   Value error, max_model_len is large\n"
    assert cause_in(f"\n$ x\n{shown}") == (
        "ValidationError: 1 validation error for ModelConfig Value error, max_model_len is large"
    )
    assert cause_in("\n$ x\nLoading\n\n") == "Loading"
    assert cause_in("\n$ x\n") == "nothing"


def test_a_command_and_its_children_end_with_the_holder_of_the_lifeline() -> None:
    """The command ignores SIGTERM, as its child does: both are killed after the grace."""
    shell = "trap '' TERM; sleep 600 & echo $$ $!; wait"
    process = subprocess.Popen(
        [sys.executable, "-P", str(lifeline.__file__), "sh", "-c", shell],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert {os.getpgid(pid) for pid in pids} == {process.pid}
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_alive, pids))
    process.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
