"""The opened scalar reward model: prompt groups in lines, the logit at each completion's end; an
encoder's rows, the logit of its head.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from align.data.fingerprint import local_folder
from align.inference.cost import Cost, cut_lines
from align.inference.encoders import context_of, is_encoder, positions_of
from align.inference.head import core
from align.inference.packing import Line, TokenRow, pack_rows
from align.inference.scores import forward_scores, shares_prompts
from align.models import load_scorer, pad_id
from align.records import Prompt, Sample, Score, WeightsRef
from align.rewards.batches import pick_device, run_lines
from align.rewards.heads import require_head
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.reward_model import RewardModel
from align.rewards.rows import RowEncoder, tokenizer_folder


class ClassifierScorer:
    """An opened reward model."""

    def __init__(self, config: RewardModel, path: str) -> None:
        folder = local_folder(path)
        weights = weights_of(folder)
        require_head(weights)
        self._encoder = RowEncoder(
            tokenizer_folder(folder, weights),
            policy=config.policy,
            chat_template=config.chat_template,
            base=local_folder(weights.base),
        )
        self._batch_size = config.batch_size
        self._device = pick_device()
        self._model = load_scorer(weights, dtype=config.dtype).eval()
        torch.nn.Module.to(self._model, self._device)
        self._pad_id = pad_id(self._encoder.tokenizer)
        self._cut: Callable[[Sequence[TokenRow]], list[Line]] | None = None
        self._max_length = longest_row(
            core(self._model).config, self._encoder.tokenizer, config.max_length
        )

    @property
    def scores_ids(self) -> bool:
        """True where sampled ids are scored as they are."""
        return self._encoder.keeps_ids

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Raw logits; a sample that is too long, cannot be rendered or gives no finite logit
        fails.
        """
        encoded = [
            [self._row(group.prompt, sample) for sample in group.samples] for group in groups
        ]
        rows = [row for group in encoded for row in group if isinstance(row, TokenRow)]
        values = iter(self._values(rows))
        return [
            [
                failure(sample, row) if isinstance(row, str) else verdict(sample, next(values))
                for sample, row in zip(group.samples, rows_of_group, strict=True)
            ]
            for group, rows_of_group in zip(groups, encoded, strict=True)
        ]

    def close(self) -> None:
        """Frees the model."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _values(self, rows: Sequence[TokenRow]) -> list[float]:
        """One logit a row; groups run their prompt once where the model can."""
        if not rows:
            return []
        if self._cut is None:
            is_able = shares_prompts(self._model, rows, self._pad_id)
            cost = Cost.of(core(self._model).config) if is_able else None
            self._cut = partial(cut_lines, cost=cost)
        return run_lines(rows, self._batch_size, self._cut, self._forward)

    def _row(self, prompt: Prompt, sample: Sample) -> TokenRow | str:
        """The row to score, or why there is none."""
        row = self._encoder.encode(prompt, sample)
        if isinstance(row, str):
            return f"reward_model: {row}"
        if self._max_length is not None and len(row) > self._max_length:
            return f"reward_model: {len(row)} tokens are more than max_length = {self._max_length}"
        return row

    def _forward(self, rows: Sequence[TokenRow], lines: Sequence[Line]) -> list[float]:
        packed = pack_rows(rows, lines, self._pad_id, whole=True)
        return forward_scores(self._model, packed.to(self._device)).cpu().tolist()


def longest_row(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, wanted: int | None
) -> int | None:
    """Tokens that a row may have: those `wanted`, else the model's context."""
    if not is_encoder(config):
        return wanted or vars(config.get_text_config()).get("max_position_embeddings")
    if not wanted:
        return context_of(config, tokenizer)
    # A table of positions ends where it ends, whatever is wanted.
    return min(wanted, positions_of(config) or wanted)


def verdict(sample: Sample, value: float) -> Score:
    """The value as a score; NaN and infinity are failures."""
    if not math.isfinite(value):
        return failure(sample, f"the model's output is {value}")
    return Score(sample.sample_id, value)


def weights_of(folder: Path) -> WeightsRef:
    """What a folder holds: a whole checkpoint, or an adapter that names its base."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not (folder / "config.json").is_file():
        base = json.loads(adapter.read_text())["base_model_name_or_path"]
        return WeightsRef(base, str(folder))
    return WeightsRef(str(folder))
