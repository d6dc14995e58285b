"""The loss before the first update follows from the objective alone, where it follows at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, Term, require
from align.registry import build
from align.training.start import disagreement, loss_at_equality


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss": "sigmoid", "beta": 0.3}, math.log(2)),
        ({"loss": "cdpo", "label_smoothing": 0.2}, math.log(2)),
        ({"loss": "hinge"}, 1.0),
        ({"loss": "ipo", "beta": 0.1}, 25.0),
    ],
)
def test_loss_at_equality_is_that_of_a_margin_of_zero(
    options: dict[str, Any], expected: float
) -> None:
    """-log sigmoid(0) = ln 2; max(0, 1 - 0) = 1; (0 - 1 / (2 * .1))^2 = 25."""
    assert loss_at_equality(build("objective", {"name": "dpo", **options})) == pytest.approx(
        expected, abs=1e-9
    )


def test_loss_without_a_reference_is_not_known() -> None:
    assert loss_at_equality(build("objective", {"name": "reinforce"})) is None


@dataclass(frozen=True)
class WithMargin:
    """A loss that depends on the pair's margin, so on the data."""

    needs: ClassVar[frozenset[str]] = frozenset({"pairs", "ref_logps"})
    scope: ClassVar[str] = "local"

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        return LossOutput((Term(require(batch.margin, "margin"), "pair"),))


def test_loss_that_depends_on_the_data_is_not_known() -> None:
    assert loss_at_equality(WithMargin()) is None


@pytest.mark.parametrize(
    ("gaps", "is_exact", "is_off"),
    [
        ([5e-5, -5e-5] * 15, True, False),
        ([5e-5] * 30, True, True),
        ([2e-4], True, True),
        ([2e-4], False, False),
        ([0.2], False, True),
        ([math.nan], True, False),
    ],
    ids=["of both signs", "of one sign", "a token", "in 16 bits", "too far in 16 bits", "unknown"],
)
def test_forwards_agree_by_token_and_by_sequence(
    gaps: list[float], is_exact: bool, is_off: bool
) -> None:
    """30 tokens of 5e-5 with one sign are a sequence's 1.5e-3; padding does not count."""
    others = -torch.ones(1, len(gaps) + 1)
    logps = others.clone()
    logps[0, :-1] += torch.tensor(gaps)
    logps[0, -1] = 7.0
    mask = torch.ones_like(others, dtype=torch.bool)
    mask[0, -1] = False
    found = disagreement(logps, others, mask, is_exact=is_exact)
    assert (found is not None) == is_off
