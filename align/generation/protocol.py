"""What a generator is: a frozen config whose `open` loads weights and returns a sampler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from align.inference.probe import Mismatch
from align.records import Prompt, Sample, WeightsRef


@dataclass(frozen=True, slots=True)
class Setting:
    """What a stage tells a sampler beyond the recipe's options."""

    seed: int
    """Of (run seed, iteration, stage, sampler); each sample's own adds prompt_id and index
    (`sample_seed`).
    """
    first_index: int = 0
    """`Sample.index` of this sampler's first sample: samplers of one stage count on."""
    chat_template: str | None = None
    dtype: str = "float32"
    trust_remote_code: bool = False
    stays: bool = False
    """Whether the sampler may be kept between stages, so that it must be able to rest."""


class Sampler(Protocol):
    """An engine that holds weights."""

    @property
    def misses(self) -> Sequence[Mismatch]:
        """What probes found when the engine, just started or synced, did not hold the trainer's
        weights (I4); each was cured by a new start. Handed on with the engine.
        """
        ...

    def generate(self, prompts: Sequence[Prompt]) -> Iterable[Sample]:
        """n samples for each prompt, all of one prompt before the next, in the prompts' order.

        A prompt that cannot be sampled (longer than the context) yields no sample; the stage counts
        it.
        """
        ...

    def logps(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probs at temperature 1 of each row's completion tokens given its prompt tokens (the
        probe of I4).
        """
        ...

    def sync(self, weights: WeightsRef) -> None:
        """Replaces the weights in place."""
        ...

    def rest(self) -> bool:
        """Between stages: frees what memory it can until the next `sync`. False where it holds more
        than should be kept from other stages; it is closed then.
        """
        ...

    def close(self) -> None:
        """Frees the engine."""
        ...


class Generator(Protocol):
    """A frozen dataclass whose fields are the recipe's options."""

    @property
    def n(self) -> int:
        """Samples a prompt."""
        ...

    def open(self, weights: WeightsRef, setting: Setting, log: Path | None = None) -> Sampler:
        """Loads the weights and returns the sampler; engine chatter goes to `log`."""
        ...

    def adopt(self, sampler: Sampler, setting: Setting) -> Sampler | None:
        """A sampler with these options on the engine that `sampler` already holds, or None where it
        cannot serve.
        """
        ...
