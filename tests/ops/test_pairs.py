"""Sides of pairs, what counts, and ranks across a step."""

from __future__ import annotations

import pytest
import torch

from align.ops.batch import PolicyBatch, StepSums
from align.ops.pairs import PairRows
from align.ops.step_pairs import StepPairs, counterparts


def three_pairs() -> PairRows:
    """Rows of 1, 2, 0 and 3 trained tokens; the second pair has an empty side."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()
    batch = PolicyBatch(mask=mask, chosen=torch.tensor([0, 2, 3]), rejected=torch.tensor([1, 1, 0]))
    return PairRows.of(batch, mask)


def test_pairs_with_an_empty_side_are_not_whole() -> None:
    pairs = three_pairs()
    assert pairs.is_whole.tolist() == [True, False, True]
    assert pairs.term(torch.tensor([1.0, 2.0, 3.0])).values.tolist() == [1.0, 0.0, 3.0]
    chosen, rejected = pairs.sides(torch.tensor([10.0, 11.0, 12.0, 13.0]))
    assert chosen.tolist() == [10.0, 12.0, 13.0] and rejected.tolist() == [11.0, 11.0, 10.0]


def test_step_pairs_of_a_lone_batch_are_its_whole_pairs() -> None:
    """Chosen rows 0 and 3, rejected rows 1 and 0; the broken pair's own place is arbitrary."""
    step = StepPairs.of(None, three_pairs(), torch.arange(4.0), torch.zeros(4))
    assert step.logps_w.tolist() == [0.0, 3.0] and step.logps_l.tolist() == [1.0, 0.0]
    assert step.own[[0, 2]].tolist() == [0, 1]
    assert step.u_w.tolist() == [0.0, 3.0]


def test_step_pairs_come_from_the_step_where_there_is_one() -> None:
    sums = StepSums(
        logps=torch.tensor([1.0, 2.0, 3.0]),
        ref_logps=torch.tensor([0.5, 0.5, 0.5]),
        chosen=torch.tensor([2, 0]),
        rejected=torch.tensor([1, 1]),
        own=torch.tensor([1, 0, 0]),
    )
    step = StepPairs.of(sums, three_pairs(), torch.zeros(4), torch.zeros(4))
    assert step.u_w.tolist() == [2.5, 0.5] and step.u_l.tolist() == [1.5, 1.5]
    assert step.own.tolist() == [1, 0, 0]


def test_a_step_without_places_is_refused() -> None:
    sums = StepSums(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match=r"step.chosen"):
        StepPairs.of(sums, three_pairs(), torch.zeros(4), torch.zeros(4))


def test_counterparts_have_the_same_rank() -> None:
    """Ranks of 5, -1, 2 are 2, 0, 1; the others in order are 7, 8, 9. Equal values keep order."""
    assert counterparts(torch.tensor([5.0, -1.0, 2.0]), torch.tensor([9.0, 7.0, 8.0])).tolist() == [
        9.0,
        7.0,
        8.0,
    ]
    assert counterparts(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 3.0])).tolist() == [3.0, 4.0]
