"""The bare facts about this environment: versions, ranges, GPUs, folders, what an import says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from align import resources
from align.errors import SetupError

DISTRIBUTION = "align-lm"
PROBE_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Probe:
    """What a child process said: its last line, or None and the last line of its error."""

    answer: str | None
    error: str = ""


def installed_versions() -> dict[str, str]:
    """Normalised distribution name -> version, of all that this interpreter sees."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        # A half-removed distribution leaves a folder without a name; of two, the first is imported.
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return found


def read_requirements() -> dict[str, list[Requirement]]:
    """Group ("" or an extra) -> supported ranges, of the checkout, else of the installed package.

    Raises `SetupError` where there is neither.
    """
    project = Path(resources.__file__).resolve().parent.parent / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text())["project"]
        if table["name"] == DISTRIBUTION:
            groups = {"": table["dependencies"], **table["optional-dependencies"]}
            return {group: [Requirement(text) for text in texts] for group, texts in groups.items()}
    try:
        found = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise SetupError(
            f"the supported ranges are unknown: {DISTRIBUTION} is not installed and there is no "
            f"{project}; install {DISTRIBUTION}"
        ) from error
    requirements = [Requirement(text) for text in found.get_all("Requires-Dist") or []]
    groups = ["", *(found.get_all("Provides-Extra") or [])]
    return {
        group: [
            requirement
            for requirement in requirements
            if (requirement.marker is None) == (group == "")
            and (requirement.marker is None or requirement.marker.evaluate({"extra": group}))
        ]
        for group in groups
    }


def run_probe(code: str) -> Probe:
    """Runs `code` in a child of this interpreter and returns its last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"},
        )
    except subprocess.TimeoutExpired:
        return Probe(None, f"no answer within {PROBE_SECONDS} s")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return Probe(None, lines[-1])
    return Probe((done.stdout.strip().splitlines() or [""])[-1])


def gpu_names() -> list[str]:
    """What the NVIDIA driver lists, whether or not torch can use it."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line.startswith("GPU")]


def extensions_folder() -> Path:
    """Where torch keeps compiled extensions."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "torch_extensions"


def hub_folder() -> Path:
    """Where huggingface_hub keeps what it downloads."""
    home = os.environ.get("HF_HOME")
    return Path(home) if home else Path.home() / ".cache" / "huggingface"


def find_tool(name: str) -> str | None:
    """A program on PATH, or beside an interpreter whose environment is not activated."""
    beside = Path(sys.executable).parent
    return shutil.which(name) or shutil.which(name, path=str(beside))
