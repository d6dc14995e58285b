"""Rewards with the faults that people fear, made of the libraries' own parts; named by dotted name.

Each is what an honest first attempt looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from align.records import Sample, Score
from align.rewards.protocol import Group

CONTEXT = 512


@dataclass(frozen=True)
class NaiveClassifier:
    """A text-classification loop as it stands in many scripts."""

    path: str
    pad_is_eos: bool = False
    """`tokenizer.pad_token = tokenizer.eos_token`: the library then skips a final end token."""
    cut_at: int | None = None
    """`truncation=True, max_length=...`"""
    ignores_mask: bool = False
    """Reads the last column, padding or not."""

    def open(self) -> NaiveScorer:
        return NaiveScorer(self)


class NaiveScorer:
    def __init__(self, config: NaiveClassifier) -> None:
        self._config = config
        self._tokenizer = AutoTokenizer.from_pretrained(config.path)
        self._model = AutoModelForSequenceClassification.from_pretrained(config.path).eval()
        if config.pad_is_eos:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model.config.pad_token_id = self._tokenizer.pad_token_id

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        samples = [sample for group in groups for sample in group.samples]
        fitting = [sample for sample in samples if len(self._row(sample)) <= CONTEXT]
        values = dict(zip((s.sample_id for s in fitting), self._forward(fitting), strict=True))
        return [[self._verdict(sample, values) for sample in group.samples] for group in groups]

    def _verdict(self, sample: Sample, values: dict[str, float]) -> Score:
        value = values.get(sample.sample_id)
        return Score(sample.sample_id, value, error="too long" if value is None else None)

    def _row(self, sample: Sample) -> list[int]:
        return [*sample.prompt_ids, *sample.completion_ids][: self._config.cut_at]

    def close(self) -> None:
        """Nothing to free."""

    @torch.inference_mode()
    def _forward(self, samples: Sequence[Sample]) -> list[float]:
        if not samples:
            return []
        rows = [self._row(sample) for sample in samples]
        batch = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        if self._config.ignores_mask:
            hidden = self._model.model(batch["input_ids"]).last_hidden_state[:, -1]
            return self._model.score(hidden)[:, 0].tolist()
        return self._model(**batch, use_cache=False).logits[:, 0].tolist()


@dataclass(frozen=True)
class Clipped:
    """Length clipped at a few characters."""

    limit: int

    def open(self) -> ClippedScorer:
        return ClippedScorer(self.limit)


@dataclass(frozen=True)
class ClippedScorer:
    limit: int

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        return [
            [Score(s.sample_id, float(min(len(s.text), self.limit))) for s in group.samples]
            for group in groups
        ]

    def close(self) -> None:
        """Nothing to free."""
