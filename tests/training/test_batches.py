from dataclasses import replace
from functools import partial

import pytest
import torch

from align.inference.cost import Cost, cut_lines
from align.ops.reduce import Counts, count_items
from align.records import Sample
from align.training.batches import MicroBatches, TrainingData, collate
from align.training.forwards import Extent, Schedule
from tests.training.material import make_samples

TOGETHER = partial(cut_lines, cost=Cost(0.0, 0.0))
APART = partial(cut_lines, cost=None)


def three_of_one_prompt() -> list[Sample]:
    """Completions of 3, 2 and 1 tokens after a prompt of 4."""
    base = make_samples(1, 3)
    ids = ((5, 6, 2), (7, 2), (2,))
    return [
        replace(sample, prompt_ids=(1, 4, 5, 6), completion_ids=own, loss_mask=(1,) * len(own))
        for sample, own in zip(base, ids, strict=True)
    ]


def pairs_of_three() -> TrainingData:
    """All three pairs of them: six rows of the batch, three forwarded."""
    values = [torch.arange(3.0), 10 + torch.arange(2.0), 20 + torch.arange(1.0)]
    return TrainingData(
        three_of_one_prompt(),
        tempered=False,
        pairs=[(0, 1, 0.5), (0, 2, 1.0), (1, 2, 1.5)],
        ref_logps=values,
    )


def test_sample_of_several_pairs_is_forwarded_once_and_stands_in_each() -> None:
    micro = collate(pairs_of_three(), [0, 1, 2], Counts(1, 1, 1), 0, TOGETHER)
    assert micro.rows.input_ids.tolist() == [[1, 4, 5, 6, 5, 6, 7]]
    assert micro.places.tolist() == [0, 0, 1, 1, 2, 2]  # chosen of each pair, then rejected
    assert micro.ids == [f"s0-0-{index}" for index in (0, 0, 1, 1, 2, 2)]
    batch = micro.batch
    assert batch.ref_logps is not None and batch.margin is not None and batch.mask is not None
    assert batch.ref_logps[1].tolist() == [0.0, 1.0, 2.0]
    assert batch.ref_logps[5].tolist() == [20.0, 0.0, 0.0]
    assert batch.mask.sum(-1).tolist() == [3, 3, 2, 2, 1, 1]
    assert batch.margin.tolist() == [0.5, 1.0, 1.5]
    assert (micro.computed_tokens, micro.needed_tokens) == (7, 7)


def test_rows_of_the_same_pairs_are_padded() -> None:
    """Lines of 4 + 2, 4 + 1 and 4 + 0 places (the last token of each is not laid out): 15 of 18."""
    micro = collate(pairs_of_three(), [0, 1, 2], Counts(1, 1, 1), 0, APART)
    assert micro.rows.input_ids.tolist() == [
        [1, 4, 5, 6, 5, 6],
        [1, 4, 5, 6, 7, 0],
        [1, 4, 5, 6, 0, 0],
    ]
    assert (micro.computed_tokens, micro.needed_tokens) == (18, 15)


def test_counts_do_not_depend_on_what_is_forwarded_once() -> None:
    """6 rows of 3 + 3 + 2 + 2 + 1 + 1 = 12 tokens in three pairs, 8 of them chosen, in one
    batch or in three."""
    data = pairs_of_three()
    assert data.count([0, 1, 2]) == Counts(12, 6, 3, 8)
    whole = collate(data, [0, 1, 2], Counts(1, 1, 1), 0, TOGETHER)
    assert count_items(whole.batch) == Counts(12, 6, 3, 8)
    parts = [count_items(collate(data, [i], Counts(1, 1, 1), 0, TOGETHER).batch) for i in range(3)]
    assert parts[0] + parts[1] + parts[2] == Counts(12, 6, 3, 8)


def test_extent_is_what_a_forward_computes() -> None:
    data = pairs_of_three()
    assert data.measure([0, 1, 2], TOGETHER) == Extent(1, 7, True)
    assert data.measure([0, 1, 2], APART) == Extent(3, 6, False)


def test_filler_trains_nothing_and_is_two_tokens_a_row() -> None:
    data = pairs_of_three()
    batches = MicroBatches(data, Schedule([[(0, 1), ()]], 2), TOGETHER, 0)
    assert len(batches) == 2
    own, filler = batches[0], batches[1]
    assert not own.is_filler and filler.is_filler
    assert own.counts == filler.counts == Counts(3 + 3 + 2 + 1, 4, 2, 3 + 3)
    assert filler.rows.input_ids.tolist() == [[1], [1]]
    assert filler.batch.mask is not None and not filler.batch.mask.any()
    # the other rank's completion tokens: both call the head equally often
    assert own.widest == filler.widest == 6
    assert filler.needed_tokens == 0


@pytest.mark.parametrize("cut", [TOGETHER, APART])
def test_completions_without_pairs_are_the_rows(cut: partial[list[object]]) -> None:
    data = TrainingData(three_of_one_prompt(), tempered=True, advantages=[1.0, -1.0, 0.5])
    micro = collate(data, [2, 0], Counts(1, 1, 1), 0, cut)
    assert micro.places.tolist() == [0, 1]
    assert micro.ids == ["s0-0-2", "s0-0-0"]
    assert micro.batch.advantages is not None
    assert micro.batch.advantages.tolist() == [0.5, 1.0]
    assert micro.rows.targets.tolist() == [2, 5, 6, 2]
