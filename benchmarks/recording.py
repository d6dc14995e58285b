"""How a measurement is shown and kept, and on what it was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(lines: Sequence[str], name: str | None) -> None:
    """Prints the lines; with a name also writes them to `benchmarks/results/NAME.md`."""
    text = "\n".join(lines)
    print(text)
    if name is not None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text + "\n")


def machine() -> str:
    """Cores, their load by now, and the versions that decide a speed."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    return (
        f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} at the end. Python "
        f"{platform.python_version()}, {platform.machine()}, {libraries}."
    )
