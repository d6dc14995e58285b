"""The invariants of ALGORITHMS 14.1, for every objective, over random and extreme batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.objectives.imitation import Imitation
from align.objectives.reinforce import Reinforce
from align.objectives.topr import Topr
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import Counts, count_items, reduce
from align.protocols import Objective
from tests.objectives.pair_objectives import PREFERENCE_OBJECTIVES, step_for
from tests.objectives.policy_gradients import PENALISED, POLICY_GRADIENTS

OBJECTIVES: list[Objective] = [
    *PREFERENCE_OBJECTIVES,
    Reinforce(aggregation="token_mean"),
    Reinforce(aggregation="sequence_mean"),
    Reinforce(aggregation="constant", constant=6),
    Topr(positive=(0.0, 1.0)),
    Topr(positive=(0.2, 3.0), negative=(0.5, 2.0), ratio_level="token"),
    Topr(ratio_level="geometric"),
    Imitation(),
    Imitation(aggregation="sequence_sum"),
    *POLICY_GRADIENTS,
    *PENALISED,
]


@dataclass(frozen=True)
class Case:
    """Log-probs (N, T) of the policy and the batch that they belong to."""

    logps: Tensor
    batch: PolicyBatch
    mismatched: Tensor
    """Log-ratios of completions after other prompts."""

    def batch_for(self, objective: Objective) -> PolicyBatch:
        """Whole steps need no sums but those of completions after other prompts."""
        if "mismatched" not in objective.needs:
            return self.batch
        own = slice(0, len(self.logps) // 2)
        return replace(self.batch, step=step_for(self.logps, self.batch, own, self.mismatched))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """2 to 6 rows of up to 5 tokens; masks with holes and empty rows; |log rho| up to 1e4 a
    sequence.
    """
    rows = draw(st.integers(2, 6))
    tokens = draw(st.integers(1, 5))
    scale = draw(st.sampled_from([0.1, 3.0, 1e4 / tokens]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def logps() -> Tensor:
        return -scale * torch.rand(rows, tokens, generator=generator)

    pairs = rows // 2
    return Case(
        logps(),
        PolicyBatch(
            mask=torch.rand(rows, tokens, generator=generator) < 0.8,
            sampling_logps=logps(),
            ref_logps=logps(),
            advantages=torch.randn(rows, generator=generator),
            scores=torch.randn(rows, generator=generator),
            chosen=torch.arange(pairs) * 2,
            rejected=torch.arange(pairs) * 2 + 1,
            margin=torch.rand(pairs, generator=generator),
            from_reference=torch.rand(rows, generator=generator) < 0.5,
        ),
        mismatched=torch.randn(rows, generator=generator) * scale,
    )


def differentiate(
    objective: Objective, logps: Tensor, batch: PolicyBatch, counts: Counts | None = None
) -> tuple[float, Tensor]:
    """Reduced loss and its gradient by the policy's log-probs."""
    leaf = logps.clone().requires_grad_()
    outputs = PolicyOutputs(leaf, -leaf, torch.full_like(logps, 0.5))
    loss = reduce(objective(outputs, batch), counts or count_items(batch))
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


def pad(values: Tensor, fill: float) -> Tensor:
    return torch.cat([values, torch.full((len(values), 3), fill, dtype=values.dtype)], -1)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_loss_and_gradient_are_finite_and_masked_tokens_get_none(
    objective: Objective, case: Case
) -> None:
    loss, grad = differentiate(objective, case.logps, case.batch_for(objective))
    assert torch.tensor(loss).isfinite() and bool(grad.isfinite().all())
    assert case.batch.mask is not None
    assert grad[~case.batch.mask.bool()].abs().sum() == 0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_padding_changes_nothing(objective: Objective, case: Case) -> None:
    """Three more positions filled with NaN, masked out."""
    batch = case.batch_for(objective)
    assert batch.mask is not None
    assert batch.sampling_logps is not None and batch.ref_logps is not None
    padded = replace(
        batch,
        mask=pad(batch.mask, 0),
        sampling_logps=pad(batch.sampling_logps, float("nan")),
        ref_logps=pad(batch.ref_logps, float("nan")),
    )
    loss, grad = differentiate(objective, case.logps, batch)
    same_loss, padded_grad = differentiate(objective, pad(case.logps, float("nan")), padded)
    # terms of thousands may cancel, and float32 then keeps that much of the largest
    largest = float(case.logps.abs().max())
    assert same_loss == pytest.approx(loss, rel=1e-5, abs=1e-6 * max(1.0, largest))
    torch.testing.assert_close(padded_grad[:, :-3], grad, rtol=1e-5, atol=1e-5)
    assert padded_grad[:, -3:].abs().sum() == 0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_micro_batches_add_up_to_the_whole(objective: Objective, case: Case) -> None:
    """Rows 0 and 1 alone, the others alone, each divided by the counts of both (I3); constants of
    the whole step reach both as its sums.
    """
    batch = case.batch
    assert batch.mask is not None and batch.advantages is not None and batch.scores is not None
    assert batch.sampling_logps is not None and batch.ref_logps is not None
    assert batch.margin is not None and batch.from_reference is not None
    parts = []
    for rows, own in ((slice(0, 2), slice(0, 1)), (slice(2, None), slice(1, None))):
        pairs = len(case.logps[rows]) // 2
        step = None
        if objective.scope == "global_batch":
            needs_others = "mismatched" in objective.needs
            step = step_for(case.logps, batch, own, case.mismatched if needs_others else None)
        part = PolicyBatch(
            mask=batch.mask[rows],
            sampling_logps=batch.sampling_logps[rows],
            ref_logps=batch.ref_logps[rows],
            advantages=batch.advantages[rows],
            scores=batch.scores[rows],
            chosen=torch.arange(pairs) * 2,
            rejected=torch.arange(pairs) * 2 + 1,
            margin=batch.margin[own],
            from_reference=batch.from_reference[rows],
            step=step,
        )
        parts.append((case.logps[rows], part))
    counts = count_items(parts[0][1]) + count_items(parts[1][1])
    assert counts == count_items(batch)
    loss, grad = differentiate(objective, case.logps, case.batch_for(objective), counts)
    found = [differentiate(objective, logps, part, counts) for logps, part in parts]
    scale = max(1.0, *(abs(value) for value, _ in found))
    assert sum(value for value, _ in found) == pytest.approx(loss, rel=1e-5, abs=1e-5 * scale)
    torch.testing.assert_close(torch.cat([grad for _, grad in found]), grad)


@pytest.mark.parametrize("objective", POLICY_GRADIENTS, ids=repr)
def test_zero_advantages_give_zero_gradient(objective: Objective) -> None:
    """Equal scores under a centred estimator."""
    batch = PolicyBatch(
        mask=torch.ones(2, 2), sampling_logps=torch.zeros(2, 2), advantages=torch.zeros(2)
    )
    loss, grad = differentiate(objective, -torch.rand(2, 2), batch)
    assert loss == 0 and grad.abs().sum() == 0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_metrics_carry_no_gradient_and_needs_are_known(objective: Objective) -> None:
    logps = torch.zeros(2, 2, requires_grad=True)
    batch = PolicyBatch(
        mask=torch.ones(2, 2),
        sampling_logps=torch.zeros(2, 2),
        ref_logps=torch.zeros(2, 2),
        advantages=torch.tensor([1.0, -1.0]),
        scores=torch.tensor([1.0, -1.0]),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
        margin=torch.zeros(1),
        from_reference=torch.tensor([True, False]),
    )
    batch = replace(batch, step=step_for(logps.detach(), batch, slice(0, 1), torch.zeros(2)))
    outputs = PolicyOutputs(logps, -logps, torch.ones(2, 2))
    for metric in objective(outputs, batch).metrics.values():
        parts = [metric] if isinstance(metric, Tensor) else [metric.numerators, metric.denominators]
        assert not any(part.requires_grad for part in parts)
    columns = {"pairs", "ref_logps", "sampling_logps", "advantages", "scores"}
    assert objective.needs <= columns | {"entropy", "sum_p_squared", "mismatched", "from_reference"}
    assert objective.scope in ("local", "global_batch")
