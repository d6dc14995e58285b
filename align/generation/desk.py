"""What every engine's sampler does around the drawing itself: prompts to requests, completions to
samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from align.data.chat import encode_prompt, end_ids
from align.data.fingerprint import fingerprint
from align.errors import SetupError
from align.generation.protocol import Setting
from align.inference.requests import Completion, Decoding, Request
from align.inference.text import completion_text
from align.models import load_tokenizer, stop_ids
from align.records import Prompt, Sample, WeightsRef, derive_seed, sample_id

_LOGGER = logging.getLogger(__name__)


class Options(Protocol):
    """What all generators' configs share."""

    @property
    def n(self) -> int:
        """Samples a prompt."""
        ...

    @property
    def temperature(self) -> float:
        """0 takes the most likely token."""
        ...

    @property
    def top_p(self) -> float:
        """1 cuts nothing."""
        ...

    @property
    def top_k(self) -> int:
        """0 cuts nothing."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Longest completion, in tokens."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a completion."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """A sample to be drawn: which prompt's, which of its samples, and what the engine is told."""

    prompt: Prompt
    index: int
    request: Request


class Desk:
    """Turns prompts into orders and completions into samples for one set of weights."""

    def __init__(
        self, options: Options, setting: Setting, weights: WeightsRef, context: int
    ) -> None:
        """`context`: tokens that prompt and completion may have together. Raises `SetupError` where
        none fits.
        """
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(
            weights.base, trust_remote_code=setting.trust_remote_code
        )
        self._options, self._setting = options, setting
        self._room = context - options.max_new_tokens
        if self._room < 1:
            raise SetupError(
                f"generate.max_new_tokens {options.max_new_tokens} leaves no room for a prompt "
                f"in the context of "
                f"{context} tokens of {weights.base}; lower it"
            )
        ends = [*stop_ids(weights.base), *end_ids(self.tokenizer, setting.chat_template)]
        self.decoding = Decoding(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_new_tokens=options.max_new_tokens,
            stop_ids=tuple(dict.fromkeys(ends)),
            stop=options.stop,
        )
        self.use(weights)

    def use(self, weights: WeightsRef) -> None:
        """From here on, samples are written by these weights."""
        self._policy = fingerprint(weights)

    def orders(self, prompts: Sequence[Prompt]) -> Iterator[Order]:
        """Orders in the order of the prompts, n for each. A prompt too long for prompt and
        completion to fit the context yields none.
        """
        for prompt in prompts:
            ids = tuple(encode_prompt(self.tokenizer, prompt.messages, self._setting.chat_template))
            if not 0 < len(ids) <= self._room:
                _LOGGER.warning(
                    "prompt %s has %d tokens, but 1 to %d can be sampled from; it yields no sample",
                    prompt.prompt_id,
                    len(ids),
                    self._room,
                )
                continue
            first = self._setting.first_index
            for index in range(first, first + self._options.n):
                seed = derive_seed(self._setting.seed, prompt.prompt_id, index)
                yield Order(prompt, index, Request(ids, seed))

    def sample(self, order: Order, completion: Completion) -> Sample:
        """The record of a completion. Log-probs that are not finite become None, with the reason in
        `meta`.
        """
        prompt_id, request = order.prompt.prompt_id, order.request
        is_valid = all(math.isfinite(logp) for logp in completion.logps)
        return Sample(
            sample_id=sample_id(
                prompt_id, order.index, self._policy, completion.ids, seed=request.seed
            ),
            prompt_id=prompt_id,
            index=order.index,
            policy=self._policy,
            prompt_ids=request.prompt_ids,
            completion_ids=completion.ids,
            loss_mask=(1,) * len(completion.ids),
            logps=completion.logps if is_valid else None,
            text=completion_text(
                self.tokenizer, request.prompt_ids, completion.ids, self.decoding.stop
            ),
            finish=completion.finish,
            temperature=self.decoding.temperature,
            top_p=self.decoding.top_p,
            top_k=self.decoding.top_k,
            seed=request.seed,
            meta=None if is_valid else {"invalid": "a log-prob is not finite"},
        )
