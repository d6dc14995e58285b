"""Sampling by transformers alone: every architecture, no engine to install; slower than vLLM."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from align.errors import SetupError
from align.generation.protocol import Sampler, Setting
from align.records import Prompt, Sample, WeightsRef

if TYPE_CHECKING:
    from align.inference.decode import ModelDecoder
    from align.inference.probe import Mismatch

_QUEUE = 8
"""Batches that continuous batching is given at once."""


@dataclass(frozen=True)
class Transformers:
    """Batched decoding in which every sample draws from its own seed, so that tokens do not depend
    on the batch.

    (In float32 up to rounding: a draw flips where it falls within about 1e-7 of the edge between
    two tokens.)
    """

    n: Annotated[int, Field(ge=1)] = 1
    """Samples a prompt."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 takes the most likely token; its log-probs are then 0, those of a point."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: the smallest set of tokens with at least this probability; 1 cuts nothing."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep this many tokens; 0 cuts nothing."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion, in tokens; prompts that leave less room in the context are not
    sampled."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion. Its text is cut before them, its tokens are kept as they were
    sampled."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples decoded together."""
    continuous_batching: bool = False
    """Decode by `generate_batch`, which fills places as they become free. Greedy decoding only: it
    draws the whole batch from one generator in the order of its scheduling, so sampled tokens could
    not be reproduced."""

    def open(
        self, weights: WeightsRef, setting: Setting, log: Path | None = None
    ) -> TransformersSampler:
        """Loads the model. Raises `SetupError` for `continuous_batching` with options that it
        cannot serve.
        """
        self._refuse_unserved()
        from align.inference.decode import ModelDecoder

        decoder = ModelDecoder(weights, setting.dtype, setting.trust_remote_code, log)
        sampler = TransformersSampler(self, decoder, weights, setting, log)
        sampler.verify()
        return sampler

    def adopt(self, sampler: Sampler, setting: Setting) -> Sampler | None:
        """A sampler with these options on the model of `sampler`; None where the model would
        differ.

        The model has one owner at a time: close the adopted sampler only.
        """
        if not isinstance(sampler, TransformersSampler):
            return None
        self._refuse_unserved()
        return sampler.with_options(self, setting)

    def _refuse_unserved(self) -> None:
        if self.continuous_batching:
            for key, is_served, remedy in (
                ("temperature", self.temperature == 0, "set it to 0"),
                ("stop", not self.stop, "remove it"),
            ):
                if not is_served:
                    raise SetupError(
                        f"generate.{key} cannot be had with continuous_batching (its draws "
                        f"depend on the batch, and it "
                        f"knows end tokens only); {remedy}, or leave continuous_batching out"
                    )


class TransformersSampler:
    """A loaded model whose weights pass the probe beside them (I4)."""

    def __init__(
        self,
        options: Transformers,
        decoder: ModelDecoder,
        weights: WeightsRef,
        setting: Setting,
        log: Path | None,
    ) -> None:
        from align.generation.desk import Desk
        from align.inference.probe import Watch

        self._options, self._decoder, self._weights = options, decoder, weights
        self._setting, self._log = setting, log
        self.watch = Watch()
        """A copy is handed on with the model."""
        self._desk = Desk(options, setting, weights, decoder.context)

    @property
    def misses(self) -> Sequence[Mismatch]:
        """What probes found before the weights were loaded anew."""
        return self.watch.misses

    def with_options(self, options: Transformers, setting: Setting) -> TransformersSampler | None:
        """The same model under other options, or None where they need another copy of it."""
        kept = (self._setting.dtype, self._setting.trust_remote_code)
        if (setting.dtype, setting.trust_remote_code) != kept:
            return None
        other = TransformersSampler(options, self._decoder, self._weights, setting, self._log)
        other.watch = replace(self.watch, misses=[*self.misses])
        return other

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Sample]:
        """Samples in the order of the prompts, a batch at a time."""
        orders = self._desk.orders(prompts)
        size = self._options.batch_size
        decoding, tokenizer = self._desk.decoding, self._desk.tokenizer
        # Continuous batching fills free places from a queue, so it is given a long one.
        held = size * _QUEUE if self._options.continuous_batching else size
        while batch := list(itertools.islice(orders, held)):
            asked = [order.request for order in batch]
            if self._options.continuous_batching:
                drawn = self._decoder.generate_continuously(asked, decoding, tokenizer, size)
            else:
                drawn = self._decoder.generate(asked, decoding, tokenizer)
            for order, completion in zip(batch, drawn, strict=True):
                yield self._desk.sample(order, completion)

    def logps(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probs at temperature 1 of each row's completion tokens given its prompt tokens."""
        return self._decoder.score(rows)

    def sync(self, weights: WeightsRef) -> None:
        """Loads other weights and verifies them."""
        from align.generation.desk import Desk

        self._decoder.load(weights)
        self._desk = Desk(self._options, self._setting, weights, self._decoder.context)
        self._weights = weights
        self.verify()

    def verify(self) -> None:
        """Holds the model to the probe beside its weights: loaded again on a miss, then
        `NumericsError`.
        """
        self.watch.verify(
            self._weights,
            self._decoder.score,
            lambda: self._decoder.load(self._weights),
            dtype=self._setting.dtype,
            max_tokens=self._decoder.context,
            log=self._log,
        )

    def rest(self) -> bool:
        """Frees the model; what is kept is the process and what it has imported."""
        self._decoder.close()
        return True

    def close(self) -> None:
        """Frees the model."""
        self._decoder.close()
