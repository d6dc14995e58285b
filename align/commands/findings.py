"""A table of findings: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

Level = Literal["ok", "warn", "FAIL"]
STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table; `remedy` is what to do about a level other than ok."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def show_findings(console: Console, findings: Sequence[Finding]) -> int:
    """Prints the table and returns the exit status: 2 if something is broken, else 0."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        level = f"[{STYLES[finding.level]}]{finding.level:<4}[/]"
        console.print(f"{finding.name:<{width}}  {level}  ", end="", soft_wrap=True)
        console.print(finding.found, markup=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':<{width}}        {finding.remedy}", markup=False, soft_wrap=True)
    counts = {level: sum(f.level == level for f in findings) for level in STYLES}
    console.print(f"{counts['ok']} ok, {counts['warn']} warn, {counts['FAIL']} FAIL")
    return 2 if counts["FAIL"] else 0
