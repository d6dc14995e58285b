"""A step is counted without its tensors, and alike."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from align.inference.cost import cut_lines
from align.ops.reduce import Counts, count_items
from align.training.batches import TrainingData, collate, pair_places
from tests.training.material import make_pairs, make_samples

APART = partial(cut_lines, cost=None)


def test_counts_of_items_are_those_of_their_batch() -> None:
    """Four pairs, one with a side that carries no loss: three count, and of their chosen sides all
    tokens.
    """
    samples = make_samples(4)
    samples[3] = replace(samples[3], loss_mask=(0,) * len(samples[3].completion_ids))
    data = TrainingData(samples, tempered=False, pairs=pair_places(samples, make_pairs(samples)))
    items = [0, 1, 2, 3]
    counted = data.count(items)
    assert counted == count_items(collate(data, items, Counts(0, 0, 0), 0, APART).batch)
    lengths = [len(sample.completion_ids) for sample in samples]
    assert counted == Counts(
        token=sum(lengths) - lengths[3],
        sequence=7,
        pair=3,
        chosen_token=lengths[0] + lengths[4] + lengths[6],
    )
