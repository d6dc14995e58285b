"""The probe of I4: rows of token ids with the trainer's log-probs beside a checkpoint, compared
after each weight sync.

A training stage calls `write_probe` when it has written a model; a sampler's `Watch` verifies the
probe when it has loaded one.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.data.fingerprint import local_folder
from align.errors import NumericsError
from align.records import WeightsRef

FILE_NAME = "probe.json"
FP32_TOLERANCE = 1e-4
"""Largest difference of a token's log-prob in float32."""
COLD_FACTOR = 2.0
"""In lower precision, how far the mismatch may exceed the one measured at the first, cold start."""
COLD_LIMIT = 1.0
"""Largest difference that a cold start in lower precision may show: kernels differ by hundredths,
other weights by nats."""
_MEASURED_FLOOR = 1e-3
"""A cold start that happens to agree exactly must not forbid rounding later."""
_LOGGER = logging.getLogger(__name__)

Row = tuple[Sequence[int], Sequence[int]]
"""Prompt ids and completion ids."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows and the trainer's log-probs (temperature 1) of their completion tokens."""

    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    logps: tuple[tuple[float, ...], ...]

    def fit(self, limit: int) -> Probe:
        """The probe cut to rows of at most `limit` tokens; a row without room for any completion
        token goes.

        Log-probs look back only, so those of the tokens that stay are still right.
        """
        kept = [
            ((prompt, completion[: limit - len(prompt)]), logps[: limit - len(prompt)])
            for (prompt, completion), logps in zip(self.rows, self.logps, strict=True)
            if completion and len(prompt) < limit
        ]
        return Probe(tuple(row for row, _ in kept), tuple(logps for _, logps in kept))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far a sampler is from the trainer, over all probed tokens, in nats."""

    largest: float
    mean: float
    tokens: int
    limit: float
    """What `largest` was allowed to be."""

    @property
    def is_miss(self) -> bool:
        """Whether the sampler does not hold the trainer's weights."""
        return not self.largest <= self.limit


def write_probe(folder: Path, rows: Sequence[Row], logps: Sequence[Sequence[float]]) -> Path:
    """Writes `probe.json` beside the checkpoint in `folder`; a few short rows are enough.

    Raises `NumericsError` where the log-probs are not finite or do not belong to the rows.
    """
    for index, ((_, completion), values) in enumerate(zip(rows, logps, strict=True)):
        if len(completion) != len(values) or not all(math.isfinite(value) for value in values):
            raise NumericsError(
                f"probe row {index} has {len(completion)} tokens and the log-probs {list(values)}"
            )
    content = {
        "rows": [[list(prompt), list(completion)] for prompt, completion in rows],
        "logps": [[float(value) for value in values] for values in logps],
    }
    path = folder / FILE_NAME
    temporary = folder / f".{FILE_NAME}.{os.getpid()}"
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
    return path


def read_probe(folder: Path) -> Probe | None:
    """The probe beside a checkpoint; None where there is none (weights that no stage of ours
    wrote).
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    rows = tuple((tuple(prompt), tuple(completion)) for prompt, completion in content["rows"])
    return Probe(rows, tuple(tuple(values) for values in content["logps"]))


def check_probe(
    sampler_logps: Sequence[Sequence[float]],
    trainer_logps: Sequence[Sequence[float]],
    dtype: str,
    cold: float | None = None,
) -> Mismatch:
    """Compares token by token. float32: at most 1e-4; else at most twice `cold`, the mismatch of
    the first start.

    Without `cold` (this is the first start) lower precision is held to a bound that only other
    weights exceed.
    """
    gaps = [
        abs(ours - theirs)
        for row, other in zip(sampler_logps, trainer_logps, strict=True)
        for ours, theirs in zip(row, other, strict=True)
    ]
    limit = COLD_LIMIT if cold is None else COLD_FACTOR * max(cold, _MEASURED_FLOOR)
    if dtype == "float32":
        limit = FP32_TOLERANCE
    if not gaps:
        return Mismatch(0.0, 0.0, 0, limit)
    largest = math.nan if any(math.isnan(gap) for gap in gaps) else max(gaps)
    return Mismatch(largest, sum(gaps) / len(gaps), len(gaps), limit)


def verify_probe(
    folder: Path,
    score: Callable[[Sequence[Row]], list[list[float]]],
    restart: Callable[[Mismatch], None],
    *,
    dtype: str,
    max_tokens: int,
    cold: float | None = None,
    log: Path | None = None,
) -> Mismatch | None:
    """Holds a sampler that has just loaded the weights in `folder` to the probe beside them; None
    without a probe.

    On a miss the event is logged and `restart`, which is told of it, called once; a second miss
    raises `NumericsError`.
    """
    probe = read_probe(folder)
    probe = None if probe is None else probe.fit(max_tokens)
    if probe is None or not probe.rows:
        return None
    mismatch = check_probe(score(probe.rows), probe.logps, dtype, cold)
    if mismatch.is_miss:
        _LOGGER.warning(
            "the sampler's log-probs of %s differ from the trainer's by %.3g nats (allowed "
            "%.3g); restarting it",
            folder,
            mismatch.largest,
            mismatch.limit,
        )
        restart(mismatch)
        mismatch = check_probe(score(probe.rows), probe.logps, dtype, cold)
    if mismatch.is_miss:
        raise NumericsError(
            f"after a restart the sampler's log-probs of {folder} still differ from the "
            f"trainer's by "
            f"{mismatch.largest:.3g} nats a token (allowed {mismatch.limit:.3g}): it does not "
            f"hold these weights",
            log=log,
        )
    return mismatch


@dataclass
class Watch:
    """What probes have found out about one engine, over all its syncs."""

    last: Mismatch | None = None
    """None where the checkpoint has no probe."""
    misses: list[Mismatch] = field(default_factory=list)
    """Those that made the engine start anew."""
    cold: float | None = None
    """The largest difference after its first start."""

    def verify(
        self,
        weights: WeightsRef,
        score: Callable[[Sequence[Row]], list[list[float]]],
        restart: Callable[[], None],
        *,
        dtype: str,
        max_tokens: int,
        log: Path | None,
    ) -> None:
        """Holds an engine that has just loaded `weights` to the probe beside them, as
        `verify_probe` does.
        """

        def start_anew(miss: Mismatch) -> None:
            self.misses.append(miss)
            restart()

        self.last = verify_probe(
            local_folder(weights.adapter or weights.base),
            score,
            start_anew,
            dtype=dtype,
            max_tokens=max_tokens,
            cold=self.cold,
            log=log,
        )
        if self.last is not None and self.cold is None:
            self.cold = self.last.largest
