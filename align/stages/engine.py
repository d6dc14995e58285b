"""The sampler that a worker holds: opened once, given other weights where it can take them, kept
between steps where memory allows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from align.generation.protocol import Generator, Sampler, Setting
from align.inference.probe import Mismatch
from align.records import WeightsRef

RESTARTS_NAME = ".restarts"
"""In a sampling step's folder: a line each time that a probe made a worker's engine start anew."""


class Engine:
    """At most one open sampler. The same samples whatever it held before (I4 is checked after each
    change of weights).
    """

    def __init__(self, log: Path, *, stays: bool = False) -> None:
        self._log, self._stays = log, stays
        self._sampler: Sampler | None = None
        self._weights: WeightsRef | None = None
        self._rested = False
        self._notes: list[str] = []
        self._known = 0
        """Misses of the open sampler that were counted."""
        self._restarts = 0

    def serve(self, generator: Generator, weights: WeightsRef, setting: Setting) -> Sampler:
        """A sampler with these options and weights: what is open where it can serve, else a new
        one in its place.
        """
        setting = replace(setting, stays=self._stays)
        began = time.monotonic()
        if self._sampler is not None:
            adopted = generator.adopt(self._sampler, setting)
            if adopted is not None:
                self._sampler = adopted
                if weights != self._weights or self._rested:
                    adopted.sync(weights)
                    self._note("weights synced", adopted, began)
                self._weights, self._rested = weights, False
                return adopted
            self.close()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._sampler = generator.open(weights, setting, self._log)
        self._weights = weights
        self._note("engine started", self._sampler, began)
        return self._sampler

    def rest(self) -> bool:
        """Gives back what memory it can until the next weights; False where the process should
        rather end.
        """
        if self._sampler is None:
            return False
        self._rested = self._sampler.rest()
        return self._rested

    def take_notes(self) -> list[str]:
        """What happened since the last call, and how long it took."""
        found, self._notes = self._notes, []
        return found

    def take_restarts(self) -> int:
        """Times, since the last call, that a probe made the engine start anew."""
        found, self._restarts = self._restarts, 0
        return found

    def close(self) -> None:
        """Frees the sampler."""
        if self._sampler is not None:
            self._sampler.close()
        self._sampler, self._rested, self._known = None, False, 0

    def _note(self, what: str, sampler: Sampler, began: float) -> None:
        """Says what was done, or that the probe made it start anew (I4)."""
        missed, self._known = sampler.misses[self._known :], len(sampler.misses)
        self._restarts += len(missed)
        seconds = time.monotonic() - began
        self._notes.append(_restarted(missed, seconds) if missed else f"{what} in {seconds:.1f} s")


def _restarted(missed: Sequence[Mismatch], seconds: float) -> str:
    return (
        f"engine started anew in {seconds:.1f} s: it did not hold the trainer's weights, its "
        f"log-probs were up to {missed[-1].largest:.3g} nats away (allowed {missed[-1].limit:.3g})"
    )


def write_restarts(folder: Path, count: int) -> None:
    """Adds to what a step's workers have counted, in this attempt and in those before it."""
    if count:
        with (folder / RESTARTS_NAME).open("a") as file:
            file.write("restart\n" * count)


def read_restarts(folder: Path) -> int:
    """Times that an engine which filled `folder` was started anew."""
    path = folder / RESTARTS_NAME
    return len(path.read_text().splitlines()) if path.is_file() else 0
