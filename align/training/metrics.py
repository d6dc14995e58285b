"""What a policy job logs: sums of its metrics over micro-batches and ranks, divided once by global
counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, Ratio
from align.ops.logps import sum_tokens
from align.ops.reduce import sum_metrics
from align.training.batches import MicroBatch

TOKENS = "tokens_per_second"
"""Prompt and completion tokens that all ranks forwarded, by the clock. Logged, but kept out of
what a finished stage reports: a clock is never the same twice.
"""
ENTROPY_EVERY = 10
"""Optimizer steps between measurements of the entropy, which needs the whole softmax."""


def measures_entropy(step: int) -> bool:
    """Whether a step, counted from 0, asks its forwards for the entropy."""
    return step % ENTROPY_EVERY == 0


class Metrics:
    """(numerator, denominator) of every metric since the last log, on this rank."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._began: float | None = None

    def begin(self) -> None:
        """Starts the clock, unless it runs."""
        if self._began is None:
            self._began = time.monotonic()

    def add(
        self, result: LossOutput, outputs: PolicyOutputs, batch: PolicyBatch, micro: MicroBatch
    ) -> None:
        """Adds a micro-batch. Filler adds zeros, so that all ranks know the same names, and its
        padding.
        """
        for name, pair in sum_metrics(describe(result, outputs, batch)).items():
            self._add(name, pair * (0.0 if micro.is_filler else 1.0))
        computed, needed = micro.computed_tokens, micro.needed_tokens
        self._add("padding_share", torch.tensor([computed - needed, computed]).double())
        self._add(TOKENS, torch.tensor([needed, 0]).double())

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The averages over all ranks, and an empty start. Every rank calls it."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].cpu() for name in names]).to(accelerator.device)
        if accelerator.num_processes > 1:
            stacked = cast(Tensor, accelerator.reduce(stacked, reduction="sum"))
        found: dict[str, float] = {}
        for name, (above, below) in zip(names, stacked.tolist(), strict=True):
            if name == TOKENS and self._began is not None:
                found[name] = above / max(1e-9, time.monotonic() - self._began)
            elif below:
                found[name] = above / below
        self._sums.clear()
        self._began = None
        return found

    def _add(self, name: str, pair: Tensor) -> None:
        self._sums[name] = self._sums.get(name, torch.zeros_like(pair)) + pair.detach()


def describe(
    result: LossOutput, outputs: PolicyOutputs, batch: PolicyBatch
) -> dict[str, Tensor | Ratio]:
    """The objective's metrics, and those that every objective has where the batch tells them:
    `log_ratio/reference`, `log_ratio/token_abs`, `logps/chosen`, `entropy`, ...
    """
    metrics = dict(result.metrics)
    assert batch.mask is not None
    mask, logps = batch.mask.bool(), outputs.logps.detach()
    is_trained = mask.any(-1)
    if batch.ref_logps is not None:
        # no KL: the completions are stored ones, of pairs the rejected beside the chosen
        ratios = torch.where(mask, logps - batch.ref_logps, 0.0).sum(-1)
        metrics["log_ratio/reference"] = torch.where(is_trained, ratios, math.nan)
    if batch.sampling_logps is not None:
        gaps = torch.where(mask, logps - batch.sampling_logps, 0.0).nan_to_num().abs()
        metrics["log_ratio/token_abs"] = torch.where(mask, gaps, math.nan)
    if batch.chosen is not None and batch.rejected is not None:
        is_whole = is_trained[batch.chosen] & is_trained[batch.rejected]
        sums = sum_tokens(logps, mask)
        for side, rows in (("chosen", batch.chosen), ("rejected", batch.rejected)):
            metrics.setdefault(f"logps/{side}", torch.where(is_whole, sums[rows], math.nan))
    if outputs.entropy is not None:
        metrics.setdefault("entropy", torch.where(mask, outputs.entropy.detach(), math.nan))
    return metrics


def constants_for_first_log(
    history: list[dict[str, float]], constants: Mapping[str, float]
) -> Mapping[str, float]:
    """What is measured once, before the first step, belongs to the first entry alone."""
    return constants if not any("loss" in entry for entry in history) else {}
