"""The sampler that a worker holds: opened once, given other weights where it can take them, kept
between steps where memory allows.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from align.generation.protocol import Generator, Sampler, Setting
from align.records import WeightsRef


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
                    self._note("weights synced", began)
                self._weights, self._rested = weights, False
                return adopted
            self.close()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._sampler = generator.open(weights, setting, self._log)
        self._weights = weights
        self._note("engine started", began)
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

    def close(self) -> None:
        """Frees the sampler."""
        if self._sampler is not None:
            self._sampler.close()
        self._sampler, self._rested = None, False

    def _note(self, what: str, began: float) -> None:
        self._notes.append(f"{what} in {time.monotonic() - began:.1f} s")
