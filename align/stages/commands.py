"""The command lines of a step's processes, as a user could type them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from align.records import Json
from align.stages.children import Command
from align.stages.folder import RunFolder
from align.stages.steps import SHARDED_KINDS, TRAINING_KINDS, Step


@dataclass(frozen=True)
class Launch:
    """Where and how processes are started."""

    accelerate_config: Path
    processes: int | None = None
    """Ranks of a training stage on this node; None leaves the number in the configuration file."""
    workers: int | None = None
    """Sampling and scoring processes on this node; None: one a device or tensor-parallel group."""
    nodes: int = 1
    node_rank: int = 0
    main_address: str = "127.0.0.1"
    main_port: int = 29500
    interface: str | None = None
    """The network interface that leads to the other nodes; None leaves the choice to gloo."""


def commands(run: RunFolder, steps: Sequence[Step], launch: Launch) -> list[Command]:
    """The processes of this node for one batch of steps of the same kind."""
    step = steps[0]
    target = [
        "--out",
        str(run.out),
        *(word for s in steps for word in ("--step", s.name)),
        "--lifeline",
    ]
    words = [f"align.launch.{_module(step)}", str(run.out / "recipe.yaml"), *target]
    log = run.out / "logs" / f"{step.name.replace('/', '.')}{_suffix(launch)}.log"
    if step.kind in TRAINING_KINDS:
        if launch.processes is not None:
            words += ["--ranks", str(launch.processes * launch.nodes)]
        forks = _may_fork(run) and _is_one_rank(launch)
        return [Command((*_accelerate(launch), "-m", *words), log, _network(launch), forks=forks)]
    python = _python(step)
    environment = {} if python == sys.executable else {"PYTHONPATH": str(Path(__file__).parents[2])}
    engines = any(one["name"] == "vllm" for one in _samplers(step))
    forks = _may_fork(run) and python == sys.executable and not engines
    if step.kind not in SHARDED_KINDS:
        return [Command((python, "-m", *words), log, environment, forks=forks)]
    devices = visible_devices()
    share = _devices_a_worker(step)
    local = launch.workers or max(1, len(devices) // share)
    groups = [devices[i : i + share] for i in range(0, len(devices) - share + 1, share)]
    return [
        Command(
            (python, "-m", *words, "--worker", str(worker)),
            log if local == 1 else log.with_suffix(f".{worker}.log"),
            # more workers than groups of devices share these
            environment | _device_environment(groups[worker % len(groups)] if groups else devices),
            worker,
            tuple(one.name for one in steps),
            forks,
        )
        for worker in range(launch.node_rank * local, (launch.node_rank + 1) * local)
    ]


def _may_fork(run: RunFolder) -> bool:
    """Whether processes that need no engine may be forks: not where there is CUDA, which a library
    may begin when it is imported, and does not survive a fork.
    """
    return run.recipe.run.fork and sys.platform == "linux" and not visible_devices()


def visible_devices() -> list[str]:
    """The CUDA devices of this node, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _accelerate(launch: Launch) -> tuple[str, ...]:
    words = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(launch.accelerate_config),
    ]
    if launch.processes is not None:
        words += ["--num_processes", str(launch.processes * launch.nodes)]
    if launch.nodes > 1:
        words += [
            "--num_machines",
            str(launch.nodes),
            "--machine_rank",
            str(launch.node_rank),
            "--main_process_ip",
            launch.main_address,
            "--main_process_port",
            str(launch.main_port),
        ]
    else:  # a free port: other runs may train on this machine; one rank takes a port too
        words += ["--main_process_port", "0"]
    return tuple(words)


def _is_one_rank(launch: Launch) -> bool:
    """Whether the launch is one process without DeepSpeed or FSDP."""
    if launch.nodes > 1 or not launch.accelerate_config.is_file():
        return False
    config = yaml.safe_load(launch.accelerate_config.read_text())
    ranks = launch.processes or config.get("num_processes", 1)
    plain = config.get("distributed_type", "NO") in ("NO", "MULTI_GPU", "MULTI_CPU")
    return plain and ranks == 1 and config.get("num_machines", 1) == 1


def _network(launch: Launch) -> dict[str, str]:
    if launch.interface is None or "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    return {"GLOO_SOCKET_IFNAME": launch.interface}


def _module(step: Step) -> str:
    return {"import": "import_data"}.get(step.kind, step.kind)


def _suffix(launch: Launch) -> str:
    return f".node{launch.node_rank}" if launch.nodes > 1 else ""


def _python(step: Step) -> str:
    named = sorted(str(s["python"]) for s in _samplers(step) if s.get("python") is not None)
    return named[0] if named else sys.executable


def _devices_a_worker(step: Step) -> int:
    if step.kind == "generate":
        engines = _samplers(step)
    else:
        sources = cast("list[Mapping[str, Json]]", step.section["sources"])
        servers = [source.get("server") for source in sources]
        engines = [server for server in servers if isinstance(server, Mapping)]
    return max((cast(int, engine.get("tensor_parallel", 1)) for engine in engines), default=1)


def _samplers(step: Step) -> list[Mapping[str, Json]]:
    return (
        cast("list[Mapping[str, Json]]", step.section["samplers"])
        if step.kind == "generate"
        else []
    )


def _device_environment(devices: Sequence[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
