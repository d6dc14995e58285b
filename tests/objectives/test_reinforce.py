"""Closed forms of REINFORCE and its aggregates."""

from __future__ import annotations

import pytest
import torch

from align.objectives.reinforce import Reinforce
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce
from tests.objectives.metrics import per_item


def small_batch() -> tuple[PolicyOutputs, PolicyBatch]:
    """Lengths 2 and 4 with token log-probs -1 and -2, advantages 1 and -.5."""
    logps = torch.tensor([[-1.0] * 4, [-2.0] * 4], requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    return PolicyOutputs(logps), PolicyBatch(mask=mask, advantages=torch.tensor([1.0, -0.5]))


@pytest.mark.parametrize(
    ("objective", "value", "first", "second"),
    [
        (Reinforce(), (2 - 4) / 2, -1 / 2, 0.5 / 2),
        (Reinforce(aggregation="token_mean"), (2 - 4) / 6, -1 / 6, 0.5 / 6),
        (Reinforce(aggregation="sequence_mean"), (1 - 1) / 2, -1 / 4, 0.5 / 8),
        (Reinforce(aggregation="constant", constant=8), (2 - 4) / 16, -1 / 16, 0.5 / 16),
    ],
)
def test_value_and_gradient(
    objective: Reinforce, value: float, first: float, second: float
) -> None:
    """Token losses are 1 and -1; the gradient is -A over the aggregate's denominator."""
    outputs, batch = small_batch()
    loss = reduce(objective(outputs, batch), count_items(batch))
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert outputs.logps.grad is not None
    assert outputs.logps.grad[0].tolist() == pytest.approx([first, first, 0, 0])
    assert outputs.logps.grad[1].tolist() == pytest.approx([second] * 4)


def test_token_advantages_weigh_each_token() -> None:
    """A = [1, 2, 9, 9 | ...]: row 1 is 1 * 1 + 2 * 1, its padding counts nothing."""
    outputs, batch = small_batch()
    advantages = torch.tensor([[1.0, 2.0, 9.0, 9.0], [0.0] * 4])
    loss = Reinforce()(outputs, PolicyBatch(mask=batch.mask, advantages=advantages))
    assert loss.terms[0].values.tolist() == [3.0, 0.0]
    assert per_item(loss.metrics, "logps") == [-2.0, -8.0]


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="set it > 0"):
        Reinforce(aggregation="constant")
    with pytest.raises(ValueError, match="not by token_mean"):
        Reinforce(aggregation="token_mean", constant=8)
    with pytest.raises(ValueError, match="advantages"):
        Reinforce()(PolicyOutputs(torch.zeros(1, 1)), PolicyBatch())
