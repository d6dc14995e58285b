"""vLLM in this process: token ids in, token ids and log-probs out, weights replaced in place.

The process is the stage's own (`python -m align.launch.generate`), so its end really frees the
accelerator. Facts about vLLM that this relies on are in STACK.md ("Silent hazards", "Sampling"),
each with a test.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import DataError, StageError
from align.inference.requests import Completion, Decoding, Request
from align.inference.vllm_loading import LoadedVllm
from align.inference.vllm_setup import EngineOptions
from align.records import WeightsRef

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

_WINDOW = 4
"""Requests in flight or waiting for an earlier one, in multiples of those decoded together."""


class VllmEngine:
    """One vLLM engine holding one policy."""

    def __init__(
        self, weights: WeightsRef, options: EngineOptions, log: Path | None = None
    ) -> None:
        self.loaded = LoadedVllm(weights, options, log)
        """The engine itself and its weights."""
        self._requests = 0

    @property
    def max_model_len(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self.loaded.running().llm_engine.model_config.max_model_len

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
            if self.loaded.lora is None
            else (output for one in asked for output in self._stream([one]))
        )
        return [
            _prompt_logps(output, len(prompt))
            for output, (prompt, _) in zip(outputs, rows, strict=True)
        ]

    def reload(self, weights: WeightsRef) -> None:
        """Replaces the weights: in place where the architecture allows, else by a new start."""
        self.loaded.reload(weights)

    def rest(self) -> bool:
        """Frees the accelerator until the next `reload`; False where the engine should rather
        end.
        """
        return self.loaded.rest()

    def restart(self) -> None:
        """Ends the engine and starts it anew, with the same weights."""
        self.loaded.restart()

    def close(self) -> None:
        """Frees the engine and its memory; another one may be started in this process."""
        self.loaded.close()

    def _stream(
        self, prompts: Iterable[tuple[Sequence[int], SamplingParams]]
    ) -> Iterator[RequestOutput]:
        """Finished requests in the order of `prompts`, a bounded number of them in flight."""
        from vllm import RequestOutput, TokensPrompt

        engine = self.loaded.running().llm_engine
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
                        lora_request=self.loaded.lora,
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
            if left and self.loaded.is_open:
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
