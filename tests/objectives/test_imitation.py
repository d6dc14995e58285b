"""Maximum likelihood: ALGORITHMS 1.5 and its two denominators."""

from __future__ import annotations

import pytest
import torch

from align.objectives.imitation import Imitation
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce, sum_metrics


def test_token_mean_vector() -> None:
    """ALGORITHMS 1.5(a): lp = [-.5, -1.5, -.25, -3] with the first masked gives 1.583333."""
    logps = torch.tensor([[-0.5, -1.5, -0.25, -3.0]], requires_grad=True)
    batch = PolicyBatch(mask=torch.tensor([[0, 1, 1, 1]]).bool())
    loss = reduce(Imitation()(PolicyOutputs(logps), batch), count_items(batch))
    loss.backward()
    assert loss.item() == pytest.approx(1.583333, abs=1e-6)
    assert logps.grad is not None
    assert logps.grad[0].tolist() == pytest.approx([0, -1 / 3, -1 / 3, -1 / 3])


def test_sequence_sum_is_the_mean_log_likelihood_of_a_sample() -> None:
    """Sums 1 and 6 of two samples, a third one fully masked: 3.5; a mean token would be 7 / 5."""
    logps = torch.tensor([[-0.5, -0.5, -9.0], [-2.0, -2.0, -2.0], [-1.0, -1.0, -1.0]])
    batch = PolicyBatch(mask=torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool())
    loss = Imitation(aggregation="sequence_sum")(PolicyOutputs(logps), batch)
    assert reduce(loss, count_items(batch)).item() == 3.5
    found = {name: (s[0] / s[1]).item() for name, s in sum_metrics(loss.metrics).items()}
    assert found == {"logps": -3.5, "nll": (0.5 + 2) / 2}


def test_a_batch_without_a_mask_trains_on_every_position() -> None:
    loss = Imitation()(PolicyOutputs(torch.tensor([[-1.0, -2.0]])), PolicyBatch())
    assert loss.terms[0].values.tolist() == [[1.0, 2.0]]
