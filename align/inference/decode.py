"""Batched decoding by a transformers model: prompts prefilled once, a seed a sample, finished rows
leave the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from align.errors import StageError
from align.inference.chatter import chatter_to
from align.inference.draw import draw_tokens, draw_uniforms, process_logits
from align.inference.logps import TokenRow, accepts_logits_to_keep, completion_logps
from align.inference.requests import Completion, Decoding, Request
from align.inference.text import ends_with_stop
from align.models import load_causal
from align.records import WeightsRef

_UNBOUNDED = 1 << 20
"""Context of models that name none (state-space models)."""
_COMPACT_BELOW = 0.75
"""Finished rows are dropped from the cache once fewer than this share of its rows is still being
written."""
_BLOCK = 32
"""Tokens a block of the paged cache of continuous batching."""


@dataclass(slots=True)
class _Row:
    """A completion being written."""

    uniforms: Tensor
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    is_stopped: bool = False


class ModelDecoder:
    """A causal language model on the accelerator where there is one, else on the CPU."""

    def __init__(
        self,
        weights: WeightsRef,
        dtype: str,
        trust_remote_code: bool = False,
        log: Path | None = None,
    ) -> None:
        self._log = log
        self._dtype, self._trust_remote_code = dtype, trust_remote_code
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: PreTrainedModel | None = None
        self.load(weights)

    @property
    def context(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self._context

    def load(self, weights: WeightsRef) -> None:
        """Replaces the model."""
        self.close()
        with chatter_to(self._log):
            model = load_causal(
                weights, dtype=self._dtype, trust_remote_code=self._trust_remote_code
            )
        # An adapter's layers stand inside the model that it was put on.
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        if not isinstance(base, PreTrainedModel):
            raise StageError(f"{weights.base} did not load as a transformers model")
        self._model = base.to(self._device).eval()  # pyright: ignore[reportArgumentType]
        config = base.config.get_text_config().to_dict()
        length = config.get("max_position_embeddings", config.get("n_positions"))
        self._context = length if isinstance(length, int) else _UNBOUNDED

    def close(self) -> None:
        """Frees the model."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        tokenizer: PreTrainedTokenizerBase,
    ) -> list[Completion]:
        """One completion a request, same order. Requests of the same prompt that stand together
        share its prefill.
        """
        model = self._running()
        prompts = [prompt for prompt, _ in itertools.groupby(r.prompt_ids for r in requests)]
        sizes = [len(list(group)) for _, group in itertools.groupby(r.prompt_ids for r in requests)]
        ids, mask = self._pad_left(prompts)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": 1} if accepts_logits_to_keep(model) else {}),
        )
        source = torch.arange(len(prompts)).repeat_interleave(torch.tensor(sizes)).to(self._device)
        cache.batch_select_indices(source)
        logits, mask, place = output.logits[source, -1], mask[source], positions[source, -1]
        rows = [_Row(draw_uniforms(r.seed, decoding.max_new_tokens)) for r in requests]
        held = list(range(len(rows)))
        """Which row each line of the cache belongs to."""
        for step in range(decoding.max_new_tokens):
            logps = process_logits(logits, decoding)
            uniforms = torch.stack([rows[row].uniforms[step] for row in held]).to(self._device)
            tokens = draw_tokens(logps, uniforms)
            drawn = logps.gather(-1, tokens[:, None])[:, 0].tolist()
            for row, token, logp in zip(
                (rows[i] for i in held), tokens.tolist(), drawn, strict=True
            ):
                if not row.is_stopped:
                    row.ids.append(token)
                    row.logps.append(logp)
                    row.is_stopped = token in decoding.stop_ids or ends_with_stop(
                        tokenizer, row.ids, decoding.stop
                    )
            active = [line for line, row in enumerate(held) if not rows[row].is_stopped]
            if not active or step + 1 == decoding.max_new_tokens:
                break
            if len(active) < _COMPACT_BELOW * len(held):
                lines = torch.tensor(active, device=self._device)
                cache.batch_select_indices(lines)
                tokens, mask, place = tokens[lines], mask[lines], place[lines]
                held = [held[line] for line in active]
            mask = torch.cat([mask, mask.new_ones(len(held), 1)], dim=-1)
            place = place + 1
            logits = model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=place[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        return [
            Completion(tuple(row.ids), tuple(row.logps), "stop" if row.is_stopped else "length")
            for row in rows
        ]

    def generate_continuously(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
    ) -> list[Completion]:
        """The same by transformers' continuous batching: greedy only, stopped by end tokens only.

        Raises `StageError` where the model cannot be run with a paged cache or a request fails.
        """
        model = self._running()
        pad = tokenizer.pad_token_id
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(decoding.stop_ids),
            pad_token_id=pad if isinstance(pad, int) else decoding.stop_ids[0],
        )
        longest = max(len(request.prompt_ids) for request in requests) + decoding.max_new_tokens
        blocks = -(-longest // _BLOCK) + 1
        # Left to itself it takes its block count from free memory and starts for a minute on the
        # CPU.
        batching = ContinuousBatchingConfig(
            block_size=_BLOCK,
            num_blocks=blocks * min(batch_size, len(requests)),
            max_requests_per_batch=batch_size,
            max_batch_tokens=max(512, longest),
            use_async_batching=False,
            use_cuda_graph=False,
        )
        try:
            outputs = model.generate_batch(  # pyright: ignore[reportCallIssue]
                [list(request.prompt_ids) for request in requests],
                generation_config=config,
                continuous_batching_config=batching,
                warmup=False,
            )
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            raise StageError(
                f"generate.continuous_batching does not work for {type(model).__name__} "
                f"({error}); leave it out"
            ) from error
        found = list(outputs.values())
        failed = [output.error for output in found if output.error is not None]
        if failed or len(found) != len(requests):
            cause = failed[0] if failed else f"{len(found)} of {len(requests)} requests answered"
            raise StageError(
                f"generate.continuous_batching does not work for {type(model).__name__} "
                f"({cause}); leave it out"
            )
        return [_greedy(output.generated_tokens, decoding) for output in found]

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probs of each row's completion tokens, at temperature 1 and with nothing cut."""
        asked = [TokenRow(prompt, completion) for prompt, completion in rows]
        return [logps.tolist() for logps in completion_logps(self._running(), asked, pad_id=0)]

    def _running(self) -> PreTrainedModel:
        if self._model is None:
            raise StageError("the transformers sampler is closed")
        return self._model

    def _pad_left(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both (N, T). What the padding is does not matter: it is masked."""
        width = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for line, row in enumerate(rows):
            ids[line, width - len(row) :] = torch.tensor(row)
            mask[line, width - len(row) :] = 1
        return ids.to(self._device), mask.to(self._device)


def _greedy(tokens: Sequence[int], decoding: Decoding) -> Completion:
    ids = tuple(tokens)
    is_stopped = bool(ids) and ids[-1] in decoding.stop_ids
    return Completion(ids, (0.0,) * len(ids), "stop" if is_stopped else "length")
