"""What asking a server has cost, counted where it is asked and added up where the stage ends.

Every process writes a file of its own into the stage's folder, so that attempts that were killed
count too.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

FOLDER = "usage"
PROMPT_TOKENS, COMPLETION_TOKENS, COST = "prompt_tokens", "completion_tokens", "cost"
COMPARISONS, FIRST_SLOT = "comparisons", "first_slot"
_FLUSH_SECONDS = 1.0
_SUMS = (COST, FIRST_SLOT)
"""Entries that are not counts."""


class Ledger:
    """Counts of one opened reward; written to `folder` about once a second and at the end."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / f"{uuid.uuid4().hex[:12]}.json"
        self._lock = threading.Lock()
        self._written = 0.0
        self.entries = Counter[str]()

    def add(self, entries: Mapping[str, float]) -> None:
        """Adds to the entries of these names."""
        with self._lock:
            for name, value in entries.items():
                self.entries[name] += value  # pyright: ignore[reportArgumentType]
            if time.monotonic() - self._written > _FLUSH_SECONDS:
                self._write()

    def close(self) -> None:
        """Writes what has been added since the last time."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._path is None or not self.entries:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self.entries))
        temporary.replace(self._path)


def read_usage(stage: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Counts and measures over all files of a stage's folder; both empty where no server was asked.

    `cost` is there where prices were given, and `first_slot_preferred` where completions were
    compared in both orders: the mean verdict for the completion that stands first; 0.5 is no bias.
    """
    total = Counter[str]()
    for path in sorted((stage / FOLDER).glob("*.json")):
        total.update(json.loads(path.read_text()))
    counts = {name: int(value) for name, value in total.items() if name not in _SUMS}
    measures = dict[str, float]()
    if COST in total:
        measures[COST] = round(total[COST], 6)
    if total[COMPARISONS]:
        measures["first_slot_preferred"] = total[FIRST_SLOT] / (2 * total[COMPARISONS])
    return counts, measures
