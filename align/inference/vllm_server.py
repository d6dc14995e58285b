"""A `vllm serve` of our own on a free port of this machine, for as long as somebody holds it.

Started as the module behind `vllm serve`: the command itself fails under vLLM's CPU distribution
(STACK.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import httpx

from align.errors import StageError
from align.inference import lifeline
from align.inference.vllm_setup import (
    MAX_SEQUENCES,
    EngineOptions,
    check_extra,
    check_head_size,
    cpu_arguments,
    on_cpu,
    vllm_environment,
)

OWNED = {
    "model": "path",
    "runner": "align",
    "served_model_name": "align",
    "dtype": "server.dtype",
    "tensor_parallel_size": "server.tensor_parallel",
    "max_model_len": "server.max_model_len",
    "trust_remote_code": "server.trust_remote_code",
    "seed": "align",
}
"""Fields of `EngineArgs` that are not the user's, and who sets them."""
_POLL_SECONDS = 0.25
_PROCESS = re.compile(r"^\([^)]*pid=\d+\) ?")
_CAUSE = re.compile(r"^(?!.*\b(?:INFO|WARNING) ).*?\b(\w*(?:Error|Exception): .+)")


class VllmServer:
    """A running server; `url` is its root, `model` the name under which it serves."""

    def __init__(
        self,
        folder: Path,
        options: EngineOptions,
        runner: Literal["generate", "pooling"],
        *,
        log: Path | None = None,
        start_seconds: float = 900.0,
    ) -> None:
        """Returns when it answers; `log` is the beginning of its log's name.

        Raises `SetupError` where vLLM cannot run this model or does not know an option, and
        `StageError`, with the cause, where it ends or does not answer in time.
        """
        check_head_size(folder)
        check_extra(options.extra, "server.engine", OWNED)
        self.model = f"align-{uuid.uuid4().hex[:12]}"  # so that no other server can be taken for it
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if log is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="align-vllm-")
            log = Path(self._temporary.name) / "vllm"
        self._log = log.with_name(f"{log.name}.{port}.log")  # each worker of a stage has its own
        self._process = self._launch(server_arguments(folder, options, runner), port)
        try:
            self._wait(start_seconds)
        except BaseException:
            self.close()
            raise

    def why_gone(self) -> str | None:
        """Why it is no longer there; None while it runs."""
        if self._process.poll() is None:
            return None
        return f"the vLLM server has ended: {self._cause()}"

    def close(self) -> None:
        """Ends the server and everything it started."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * lifeline.GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _launch(self, arguments: Mapping[str, object], port: int) -> subprocess.Popen[bytes]:
        words = {
            "served-model-name": self.model,
            "host": "127.0.0.1",
            "port": port,
            "uvicorn-log-level": "warning",
            **arguments,
        }
        module = "vllm.entrypoints.openai.api_server"
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", module, *flags(words)]
        environment = {**vllm_environment(), **os.environ}
        # That of an engine in this very process, which a server cannot have.
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-P", str(lifeline.__file__), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while not self._serves(client):
                if self._process.poll() is not None:
                    raise self._failure(f"vLLM did not start: {self._cause()}")
                if time.monotonic() > until:
                    raise self._failure(
                        f"vLLM did not answer within {seconds:g} s (raise server.start_seconds); "
                        f"it last said: {self._cause()}"
                    )
                time.sleep(_POLL_SECONDS)

    def _serves(self, client: httpx.Client) -> bool:
        """Whether it lists our model: another server may have taken the port."""
        try:
            answer = client.get(f"{self.url}/v1/models")
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK and self.model in answer.text

    def _cause(self) -> str:
        return cause_in(self._log.read_text(errors="replace"))

    def _failure(self, message: str) -> StageError:
        return StageError(message, log=None if self._temporary is not None else self._log)


def cause_in(log: str) -> str:
    """The first error after the last command line in a log, of which later ones are consequences;
    else the last line.
    """
    text = log.rpartition("\n$ ")[2]
    lines = [_PROCESS.sub("", line).rstrip() for line in text.splitlines()[1:]]
    lines = [line for line in lines if line]
    for place, line in enumerate(lines):
        match = _CAUSE.match(line)
        if match is not None:
            # Pydantic says what is wrong in the line below.
            below = lines[place + 1 : place + 2] if "validation error" in line else []
            return " ".join([match[1], *(each.strip() for each in below)])[:300]
    return lines[-1].strip()[:300] if lines else "nothing"


def server_arguments(
    folder: Path, options: EngineOptions, runner: Literal["generate", "pooling"]
) -> dict[str, object]:
    """vLLM's engine arguments for a server that never changes its weights."""
    arguments: dict[str, object] = {
        "model": str(folder),
        "runner": runner,
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel,
        "max_model_len": options.max_model_len,
        "trust_remote_code": options.trust_remote_code,
        "enable_prefix_caching": True,
        "max_num_seqs": MAX_SEQUENCES,
        "seed": 0,
    }
    if on_cpu():
        arguments |= cpu_arguments(folder, options)
    return arguments | dict(options.extra)


def flags(arguments: Mapping[str, object]) -> list[str]:
    """`{"max_model_len": 64, "enforce_eager": False, "port": None}` -> `--max-model-len 64
    --no-enforce-eager`.
    """
    words: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", value if isinstance(value, str) else json.dumps(value)]
    return words


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
