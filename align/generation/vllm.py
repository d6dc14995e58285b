"""Sampling by vLLM (https://docs.vllm.ai), in the stage's own process."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from align.generation.protocol import Sampler, Setting
from align.records import Prompt, Sample, WeightsRef

if TYPE_CHECKING:
    from align.generation.desk import Order
    from align.inference.probe import Mismatch
    from align.inference.requests import Request
    from align.inference.vllm_engine import VllmEngine


@dataclass(frozen=True)
class Vllm:
    """vLLM with a request and a seed a sample, so that tokens depend on no other sample (exact in
    float32).

    Log-probs are those of the distribution sampled from: after temperature, top-k and top-p.
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
    reproducible: bool = True
    """False draws all samples from one generator of the engine: somewhat quicker, but the tokens
    then depend on batches and workers, and a run that is killed does not end with the same content.
    """
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """Devices that share one copy of the model."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Context in tokens, prompt and completion together; default: the model's own."""
    python: str | None = None
    """Interpreter of another environment that has vLLM and this package; default: this one."""
    engine: dict[str, object] = field(default_factory=dict)
    """Further fields of vLLM's `EngineArgs`, verbatim, e.g. `{gpu_memory_utilization: 0.8,
    max_num_seqs: 64}`."""

    def open(self, weights: WeightsRef, setting: Setting, log: Path | None = None) -> VllmSampler:
        """Starts the engine. Raises `SetupError` where it cannot run this model (head size,
        options).
        """
        from align.inference.vllm_engine import VllmEngine
        from align.inference.vllm_setup import EngineOptions

        options = EngineOptions(
            dtype=setting.dtype,
            tensor_parallel=self.tensor_parallel,
            max_model_len=self.max_model_len,
            trust_remote_code=setting.trust_remote_code,
            extra=self.engine,
            sleeps=setting.stays,
            seed=0 if self.reproducible else secrets.randbelow(1 << 31),
        )
        engine = VllmEngine(weights, options, log)
        try:
            sampler = VllmSampler(self, engine, weights, setting, log)
            sampler.verify()
        except BaseException:
            engine.close()
            raise
        return sampler

    def adopt(self, sampler: Sampler, setting: Setting) -> Sampler | None:
        """A sampler with these options on the engine of `sampler`; None where the engine would
        differ.

        The engine has one owner at a time: close the adopted sampler only.
        """
        if not isinstance(sampler, VllmSampler):
            return None
        return sampler.with_options(self, setting)


class VllmSampler:
    """An open vLLM engine whose weights pass the probe beside them (I4)."""

    def __init__(
        self,
        options: Vllm,
        engine: VllmEngine,
        weights: WeightsRef,
        setting: Setting,
        log: Path | None,
    ) -> None:
        from align.generation.desk import Desk
        from align.inference.probe import Watch

        self._options, self._engine, self._weights = options, engine, weights
        self._setting, self._log = setting, log
        self.watch = Watch()
        """A copy is handed on with the engine."""
        self._desk = Desk(options, setting, weights, engine.max_model_len)

    @property
    def misses(self) -> Sequence[Mismatch]:
        """What probes found before the weights were loaded anew."""
        return self.watch.misses

    def with_options(self, options: Vllm, setting: Setting) -> VllmSampler | None:
        """The same engine under other options, or None where they need another engine."""
        if _engine_of(options, setting) != _engine_of(self._options, self._setting):
            return None
        other = VllmSampler(options, self._engine, self._weights, setting, self._log)
        other.watch = replace(self.watch, misses=[*self.misses])
        return other

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Sample]:
        """Samples in the order of the prompts, each as soon as it and all before it are done."""
        drawn: deque[Order] = deque()

        def requests() -> Iterator[Request]:
            for order in self._desk.orders(prompts):
                drawn.append(order)
                yield order.request

        decoding = replace(self._desk.decoding, seeded=self._options.reproducible)
        for completion in self._engine.generate(requests(), decoding):
            yield self._desk.sample(drawn.popleft(), completion)

    def logps(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probs at temperature 1 of each row's completion tokens given its prompt tokens."""
        return self._engine.score(rows)

    def sync(self, weights: WeightsRef) -> None:
        """Replaces the weights, in place where the architecture is the same, and verifies them."""
        from align.generation.desk import Desk

        self._engine.reload(weights)
        self._desk = Desk(self._options, self._setting, weights, self._engine.max_model_len)
        self._weights = weights
        self.verify()

    def verify(self) -> None:
        """Holds the engine to the probe beside its weights: one restart on a miss, then
        `NumericsError`.
        """
        self.watch.verify(
            self._weights,
            self._engine.score,
            self._engine.restart,
            dtype=self._setting.dtype,
            max_tokens=self._engine.max_model_len - 1,
            log=self._log,
        )

    def rest(self) -> bool:
        """Frees the accelerator until the next `sync`; on the CPU says whether there is memory
        enough to keep the engine as it is.
        """
        return self._engine.rest()

    def close(self) -> None:
        """Frees the engine."""
        self._engine.close()


def _engine_of(options: Vllm, setting: Setting) -> tuple[object, ...]:
    """What an engine is started with; the other options are its requests'."""
    return (
        options.tensor_parallel,
        options.max_model_len,
        options.python,
        options.engine,
        options.reproducible,
        setting.dtype,
        setting.trust_remote_code,
    )
