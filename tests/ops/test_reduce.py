"""Aggregation with global counts: ALGORITHMS 1.5(c), 8.1 and the split over micro-batches."""

from __future__ import annotations

import math

import pytest
import torch

from align.ops.batch import LossOutput, PolicyBatch, Ratio, Term
from align.ops.reduce import Aggregation, Counts, aggregate, count_items, reduce, sum_metrics


def test_counts_leave_out_fully_masked_sequences_and_their_pairs() -> None:
    """Rows have 2, 0 and 1 trained tokens: 3 tokens, 2 sequences; of pairs (0,2), (0,1) the first
    counts, whose chosen side has 2.
    """
    batch = PolicyBatch(
        mask=torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        chosen=torch.tensor([0, 0]),
        rejected=torch.tensor([2, 1]),
    )
    assert count_items(batch) == Counts(token=3, sequence=2, pair=1, chosen_token=2)


def test_counts_add_and_travel_as_a_tensor() -> None:
    total = Counts(3, 2, 1, 2) + Counts(4, 1, 0, 0)
    assert total == Counts(7, 3, 1, 2)
    assert Counts.from_tensor(total.to_tensor() * 2) == Counts(14, 6, 2, 4)


def test_counting_without_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        count_items(PolicyBatch())


def test_reduce_uses_global_token_counts() -> None:
    """ALGORITHMS 1.5(c): {1.5, .25, 3.0} and {2.0} give 6.75 / 4 = 1.6875, not the mean of means
    1.791667.
    """
    counts = Counts(token=4, sequence=0, pair=0)
    parts = [
        LossOutput((Term(torch.tensor([[1.5, 0.25, 3.0]]), "token"),)),
        LossOutput((Term(torch.tensor([[2.0, 0.0, 0.0]]), "token"),)),
    ]
    assert sum(reduce(part, counts).item() for part in parts) == pytest.approx(1.6875)


def test_reduce_weighs_and_adds_terms_with_their_own_denominators() -> None:
    """2 pairs: (1 + 3) / 2 = 2; 4 tokens: 0.5 * (2 + 6) / 4 = 1."""
    loss = LossOutput(
        (Term(torch.tensor([1.0, 3.0]), "pair"), Term(torch.tensor([[2.0, 6.0]]), "token", 0.5))
    )
    assert reduce(loss, Counts(token=4, sequence=9, pair=2)).item() == 3.0


def test_reduce_divides_chosen_tokens_by_their_own_count() -> None:
    """6 over the 3 tokens of the chosen sides, whatever the 8 tokens of both."""
    loss = LossOutput((Term(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), "chosen_token"),))
    assert reduce(loss, Counts(token=8, sequence=4, pair=2, chosen_token=3)).item() == 2.0


def test_reduce_of_nothing_is_zero_with_a_zero_gradient() -> None:
    """No pair is left in the step: 0 / max(1, 0)."""
    logps = torch.zeros(1, requires_grad=True)
    loss = reduce(LossOutput((Term(logps * 0.0, "pair"),)), Counts(0, 0, 0))
    loss.backward()
    assert loss.item() == 0 and logps.grad is not None and logps.grad.item() == 0


def test_reduce_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        reduce(LossOutput(()), Counts(1, 1, 1))


@pytest.mark.parametrize(
    ("how", "constant", "expected"),
    [
        ("sequence_mean", None, 1.5),
        ("token_mean", None, 1.6666667),
        ("constant", 8.0, 0.625),
        ("sequence_sum", None, 5.0),
    ],
)
def test_aggregates_of_the_reference_vector(
    how: Aggregation, constant: float | None, expected: float
) -> None:
    """ALGORITHMS 8.1: lengths 2 and 4, token losses 1 and 2; a third, fully masked row changes
    nothing.
    """
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    values = torch.tensor([[1.0] * 4, [2.0] * 4, [math.nan] * 4])
    counts = count_items(PolicyBatch(mask=mask))
    term = aggregate(values, mask, how, constant=constant)
    assert reduce(LossOutput((term,)), counts).item() == pytest.approx(expected)


def test_aggregate_by_an_unset_constant_is_refused() -> None:
    with pytest.raises(ValueError, match="max_new_tokens"):
        aggregate(torch.ones(1, 1), torch.ones(1, 1).bool(), "constant")


def test_metrics_skip_nan_items_and_ratios_divide_sums() -> None:
    """mean of {1, 3} is 4 / 2; the ratio of sums (1 + 0) / (1 + 3) is not the mean of ratios."""
    sums = sum_metrics(
        {
            "a": torch.tensor([1.0, math.nan, 3.0]),
            "b": Ratio(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3.0])),
        }
    )
    assert sums["a"].tolist() == [4.0, 2.0]
    assert sums["b"].tolist() == [1.0, 4.0]
