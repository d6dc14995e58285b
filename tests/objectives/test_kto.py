"""KTO on the standard pair's sides (ALGORITHMS 3.1, 3.2)."""

from __future__ import annotations

import math

import pytest
import torch

from align.objectives.kto import Kto
from align.ops.batch import PolicyBatch, PolicyOutputs, StepSums
from align.ops.reduce import count_items, reduce, sum_metrics
from tests.objectives.metrics import per_item


def two_sides(mismatched: list[float] | None) -> tuple[PolicyOutputs, PolicyBatch]:
    """u = 1 of a desirable, -.5 of an undesirable completion; a third is masked out."""
    step = None
    if mismatched is not None:
        step = StepSums(
            torch.zeros(3), torch.zeros(3), mismatched=torch.tensor(mismatched).double()
        )
    logps = torch.tensor([[-3.0] * 4, [-3.75] * 4, [0.0] * 4], dtype=torch.float64)
    ref = torch.tensor([[-3.25] * 4, [-3.625] * 4, [0.0] * 4], dtype=torch.float64)
    mask = torch.tensor([[1] * 4, [1] * 4, [0] * 4]).bool()
    batch = PolicyBatch(mask=mask, ref_logps=ref, scores=torch.tensor([1.0, -1.0, 1.0]), step=step)
    return PolicyOutputs(logps.requires_grad_()), batch


@pytest.mark.parametrize(
    ("objective", "desirable", "undesirable"),
    [
        (Kto(), 0.480011, 0.482507),
        (Kto(desirable_weight=1.5, undesirable_weight=0.5), 1.5 * 0.480011, 0.5 * 0.482507),
        (Kto(baseline="zero"), 1 / (1 + math.exp(0.1)), 1 / (1 + math.exp(0.05))),
    ],
)
def test_values(objective: Kto, desirable: float, undesirable: float) -> None:
    """z0 = .2, the mean of -1 and 1.4 (not of their clamped values); with z0 = 0 apo_zero's halves.

    1 - sigma(.1 (1 - .2)) = .480011 and 1 - sigma(.1 (.2 + .5)) = .482507.
    """
    outputs, batch = two_sides([-1.0, 1.4])
    loss = objective(outputs, batch)
    assert loss.terms[0].per == "sequence"
    assert loss.terms[0].values.tolist() == pytest.approx([desirable, undesirable, 0], abs=1e-6)
    assert reduce(loss, count_items(batch)).item() == pytest.approx(
        (desirable + undesirable) / 2, abs=1e-6
    )


def test_z0_is_clamped_after_the_mean_and_has_no_gradient() -> None:
    """Mean of -3 and 1 is below 0: z0 = 0. dL/du = -beta sigma' of the desirable one, / 2."""
    outputs, batch = two_sides([-3.0, 1.0])
    loss = Kto()(outputs, batch)
    reduce(loss, count_items(batch)).backward()
    sigma = 1 / (1 + math.exp(-0.1))
    grad = outputs.logps.grad
    assert grad is not None
    assert grad[0].tolist() == pytest.approx([-0.1 * sigma * (1 - sigma) / 2] * 4)
    assert bool((grad[1] > 0).all()) and grad[2].tolist() == [0.0] * 4
    assert per_item(loss.metrics, "z0")[:2] == [0.0, 0.0]


def test_a_batch_of_one_class_is_the_other_term_alone() -> None:
    outputs, batch = two_sides([0.2])
    assert batch.step is not None
    only = PolicyBatch(
        batch.mask, ref_logps=batch.ref_logps, scores=-torch.ones(3), step=batch.step
    )
    loss = Kto()(outputs, only)
    assert loss.terms[0].values[1].item() == pytest.approx(0.482507, abs=1e-6)
    sums = sum_metrics(loss.metrics)
    assert sums["rewards/chosen"][1] == 0 and sums["rewards/rejected"][1] == 2


def test_metrics_are_of_each_class() -> None:
    outputs, batch = two_sides([-1.0, 1.4])
    sums = sum_metrics(Kto()(outputs, batch).metrics)
    found = {name: (pair[0] / pair[1]).item() for name, pair in sums.items()}
    assert found == pytest.approx(
        {
            "z0": 0.2,
            "rewards/chosen": 0.1,
            "rewards/rejected": -0.05,
            "logps/chosen": -12.0,
            "logps/rejected": -15.0,
        }
    )


def test_what_it_reads_follows_from_the_baseline() -> None:
    assert Kto().needs == {"scores", "ref_logps", "mismatched"}
    assert Kto().scope == "global_batch"
    assert Kto(baseline="zero").needs == {"scores", "ref_logps"}
    assert Kto(baseline="zero").scope == "local"


def test_a_batch_without_mismatched_completions_is_refused() -> None:
    outputs, batch = two_sides(None)
    with pytest.raises(ValueError, match=r"give batch.step with `mismatched`"):
        Kto()(outputs, batch)
    outputs, batch = two_sides([])
    with pytest.raises(ValueError, match="at least two prompts"):
        Kto()(outputs, batch)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"beta": 0.0}, "beta must be finite and above 0"),
        ({"desirable_weight": -1.0}, "desirable_weight must be finite"),
        ({"undesirable_weight": math.inf}, "undesirable_weight must be finite"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Kto(**options)  # type: ignore[arg-type]
