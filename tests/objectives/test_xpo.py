"""XPO on the standard pair (ALGORITHMS 11.5): DPO, and a term on the reference's side."""

from __future__ import annotations

import math

import pytest
import torch

from align.objectives.xpo import Xpo
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import count_items, reduce


def standard_pair(
    written: list[bool], rejected: float = -15.0
) -> tuple[PolicyOutputs, PolicyBatch]:
    """TP: -12 over 4 tokens against -13 of the reference, `rejected` over 6 tokens, u_l = -0.5."""
    mask = torch.tensor([[1] * 4 + [0] * 2, [1] * 6]).bool()
    logps = torch.tensor([[-3.0] * 6, [rejected / 6] * 6], dtype=torch.float64)
    refs = torch.tensor([[-3.25] * 6, [(rejected + 0.5) / 6] * 6], dtype=torch.float64)
    batch = PolicyBatch(
        mask=mask,
        ref_logps=refs,
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
        from_reference=torch.tensor(written),
    )
    return PolicyOutputs(logps.requires_grad_()), batch


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([False, True], 0.620957 - 2.0),  # the table's -1.379043: S(y_ref) = -20, alpha .1
        ([True, False], 0.620957 - 1.2),
        ([True, True], 0.620957 - 1.6),  # the mean of -12 and -20
        ([False, False], 0.620957),
    ],
)
def test_reference_vector(written: list[bool], expected: float) -> None:
    outputs, batch = standard_pair(written, rejected=-20.0)
    output = Xpo(alpha=0.1)(outputs, batch)
    assert float(reduce(output, count_items(batch)).detach()) == pytest.approx(expected, abs=1e-6)
    explored = float(output.metrics["xpo/log_prob"][0])
    assert math.isnan(explored) == (not any(written))


def test_gradient_is_that_of_dpo_and_alpha_on_every_token_of_the_reference() -> None:
    """dL/dlp = -+ beta sigma(-d) = -+ 0.046257, plus alpha = 0.01 on the rejected side's tokens."""
    outputs, batch = standard_pair([False, True])
    reduce(Xpo(alpha=0.01)(outputs, batch), count_items(batch)).backward()
    assert outputs.logps.grad is not None
    expected = torch.tensor([[-0.046257] * 4 + [0.0] * 2, [0.046257 + 0.01] * 6]).double()
    torch.testing.assert_close(outputs.logps.grad, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"alpha": -1.0}, {"alpha": math.inf}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Xpo(**options)
