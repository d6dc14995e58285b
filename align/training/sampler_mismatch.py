"""How far the log-probs that samplers stored are from the trainer's own, and the weights that mend
it (ALGORITHMS 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from align.errors import DataError
from align.ops.corrections import Correction as Weights
from align.ops.corrections import correct_mismatch, mismatch_statistics
from align.recipe.sections import Correction
from align.records import Sample

MEASURED = 16_384
"""Samples, evenly spaced, of which the statistics are made: enough, and bounded in memory."""
BLOCK = 1_024
"""Samples that are weighed at once."""


def measure_mismatch(samples: Sequence[Sample], recomputed: Sequence[Tensor]) -> dict[str, float]:
    """`sampler_mismatch/...` over samples that carry log-probs: mean and max of |q|, k3, share of
    effective sequences; {} where none does.
    """
    known = [place for place, sample in enumerate(samples) if sample.logps is not None]
    known = _spread(known)
    if not known:
        return {}
    stored = as_tensors([samples[place].logps or () for place in known], torch.float32)
    old, sampler, mask = _padded(
        [samples[place] for place in known], [recomputed[place] for place in known], stored
    )
    return _named(mismatch_statistics(old, sampler, mask))


def correct_samples(
    samples: Sequence[Sample],
    recomputed: Sequence[Tensor],
    stored: Sequence[Tensor],
    correction: Correction,
) -> tuple[list[Tensor], dict[str, int], dict[str, float]]:
    """Each sample's weights a token, what they drop, and how far the engines were apart.

    Raises `DataError` where nothing is left to train on.
    """
    weights: list[Tensor] = []
    counts = {"correction_tokens_dropped": 0, "correction_sequences_dropped": 0}
    trained = sum(sum(sample.loss_mask) for sample in samples)
    for begin in range(0, len(samples), BLOCK):
        block = slice(begin, begin + BLOCK)
        found = _weigh(samples[block], recomputed[block], stored[block], correction)
        for sample, row in zip(samples[block], found.weights, strict=True):
            weights.append(row[: len(sample.completion_ids)].clone())
        counts["correction_tokens_dropped"] += found.counts["tokens"]
        counts["correction_sequences_dropped"] += found.counts["sequences"]
    if counts["correction_tokens_dropped"] == trained:
        raise DataError(
            f"train.correction ({correction.kind} in [{correction.low:g}, {correction.high:g}]) "
            f"drops all {len(samples)} samples: the sampler's log-probs are not of these weights "
            "and temperatures; look at sampler_mismatch of an iteration before, or sample again"
        )
    some = _spread(list(range(len(samples))))
    chosen = [samples[place] for place in some]
    old, sampler, mask = _padded(
        chosen, [recomputed[place] for place in some], [stored[place] for place in some]
    )
    kind, low, high = correction.kind, correction.low, correction.high
    applied = correct_mismatch(old, sampler, mask, kind, low=low, high=high)
    return weights, counts, _named(mismatch_statistics(old, sampler, mask, applied))


def _weigh(
    samples: Sequence[Sample],
    recomputed: Sequence[Tensor],
    stored: Sequence[Tensor],
    correction: Correction,
) -> Weights:
    old, sampler, mask = _padded(samples, recomputed, stored)
    found = correct_mismatch(
        old, sampler, mask, correction.kind, low=correction.low, high=correction.high
    )
    return replace(found, weights=found.weights.float())


def _padded(
    samples: Sequence[Sample], recomputed: Sequence[Tensor], stored: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    masks = as_tensors([sample.loss_mask for sample in samples], torch.bool)
    return (
        pad_sequence(list(recomputed), batch_first=True),
        pad_sequence(list(stored), batch_first=True),
        pad_sequence(masks, batch_first=True),
    )


def as_tensors(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> list[Tensor]:
    """A tensor a row, made at once: one by one they take twenty times as long."""
    flat = torch.tensor(list(chain.from_iterable(rows)), dtype=dtype)
    return list(flat.split([len(row) for row in rows]))


def _spread(places: list[int]) -> list[int]:
    return places[:: max(1, -(-len(places) // MEASURED))]


def _named(statistics: dict[str, float]) -> dict[str, float]:
    return {f"sampler_mismatch/{name}": value for name, value in statistics.items()}
