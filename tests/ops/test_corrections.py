"""ALGORITHMS 10 to the number: weights, what is dropped, and the statistics of a mismatch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align.ops.batch import PolicyBatch
from align.ops.corrections import (
    CorrectionKind,
    correct,
    correct_mismatch,
    effective_share,
    mask_off_policy,
    mismatch_statistics,
)

Q = [0.1, -0.2, 1.5, -1.2]
RATIOS = [1.105171, 0.818731, 4.481689, 0.301194]


def vector(q: list[float] = Q) -> tuple[Tensor, Tensor, Tensor]:
    """Trainer and sampler log-probs with these differences, then one token of padding."""
    sampler = torch.full((1, len(q) + 1), -2.0, dtype=torch.float64)
    old = sampler + torch.tensor([[*q, math.nan]], dtype=torch.float64)
    mask = torch.ones(1, len(q) + 1).bool()
    mask[0, -1] = False
    return old, sampler, mask


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("token_tis", 0.0, 2.0, [1.105171, 0.818731, 2.0, 0.301194]),
        ("token_tis", 0.5, 5.0, [1.105171, 0.818731, 4.481689, 0.5]),
        ("token_mask", 0.5, 5.0, [1.105171, 0.818731, 4.481689, 0.0]),
        ("sequence_tis", 0.0, 2.0, [1.221403] * 4),
        ("sequence_tis", 0.0, 1.2, [1.2] * 4),
        ("sequence_mask", 0.0, 3.0, [1.221403] * 4),
        ("sequence_mask", 0.0, 1.2, [0.0] * 4),
        ("sequence_mask", 1.3, 3.0, [0.0] * 4),
        ("geometric_mask", 0.9, 1.1, [1.0] * 4),
        ("geometric_mask", 0.999, 1.001, [0.0] * 4),
        ("geometric_mask_tis", 0.9, 1.1, RATIOS),
        ("geometric_mask_tis", 0.999, 1.001, [0.0] * 4),
    ],
)
def test_reference_vectors(
    kind: CorrectionKind, low: float, high: float, expected: list[float]
) -> None:
    """The sum of q is .2: product 1.221403, geometric mean e^.05 = 1.051271."""
    found = correct_mismatch(*vector(), kind, low=low, high=high)
    assert found.weights[0].tolist() == pytest.approx([*expected, 0.0], abs=1e-6)
    dropped = expected.count(0.0)
    assert found.counts == {"tokens": dropped, "sequences": int(dropped == 4)}
    assert found.kept[0].tolist() == [weight > 0 for weight in [*expected, 0.0]]


def test_a_missing_log_prob_weighs_one() -> None:
    """NaN from the engine: q = 0 there, and the sequence's product is that of the others."""
    old = torch.tensor([[-1.0, -2.0]])
    sampler = torch.tensor([[-1.5, math.nan]])
    mask = torch.ones(1, 2).bool()
    tokens = correct_mismatch(old, sampler, mask, "token_tis", low=0, high=2)
    assert tokens.weights[0].tolist() == pytest.approx([math.exp(0.5), 1.0])
    whole = correct_mismatch(old, sampler, mask, "sequence_mask", low=0, high=3)
    assert whole.weights[0].tolist() == pytest.approx([math.exp(0.5)] * 2)


def test_weights_carry_no_gradient_and_rows_without_tokens_are_not_dropped() -> None:
    old = torch.zeros(2, 2, requires_grad=True)
    mask = torch.tensor([[True, True], [False, False]])
    found = correct_mismatch(old, torch.zeros(2, 2), mask, "token_mask", low=0.5, high=5)
    assert not found.weights.requires_grad
    assert found.weights.tolist() == [[1, 1], [0, 0]]
    assert found.counts == {"tokens": 0, "sequences": 0}


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (2.0, 2.0), (0.0, math.inf)])
def test_impossible_bands_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 <= low < high < inf"):
        correct_mismatch(*vector(), "token_tis", low=low, high=high)


@given(
    st.sampled_from(
        [
            "token_tis",
            "sequence_tis",
            "token_mask",
            "sequence_mask",
            "geometric_mask",
            "geometric_mask_tis",
        ]
    ),
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6),
)
def test_weights_of_extreme_mismatches_are_finite_and_in_the_band(
    kind: CorrectionKind, q: list[float]
) -> None:
    found = correct_mismatch(*vector(q), kind, low=0.5, high=2.0)
    kept = found.weights[found.kept]
    assert bool(kept.isfinite().all())
    if kind not in ("geometric_mask", "geometric_mask_tis"):
        assert bool((kept >= 0.5 - 1e-9).all() and (kept <= 2 + 1e-9).all())
    assert found.weights[~found.kept].abs().sum() == 0


def test_off_policy_sequences_are_dropped_only_where_they_are_bad() -> None:
    """Drifts .6, .6 and .4 nats a token against .5; the first has A > 0."""
    ratios = torch.tensor([[-0.6, -0.6], [-1.2, 0.0], [-0.4, -0.4]])
    mask = torch.ones(3, 2).bool()
    kept = mask_off_policy(ratios, mask, torch.tensor([[1.0], [-1.0], [-1.0]]), 0.5)
    assert kept.expand(3, 2).tolist() == [[True] * 2, [False] * 2, [True] * 2]


def test_correct_multiplies_trained_tokens() -> None:
    losses = torch.tensor([[1.0, 2.0, math.nan]])
    mask = torch.tensor([[True, True, False]])
    weighted = PolicyBatch(correction=torch.tensor([[0.5, 2.0, math.inf]]))
    assert correct(losses, weighted, mask).tolist() == [[0.5, 4.0, 0.0]]
    assert correct(losses, PolicyBatch(), mask).tolist() == [[1.0, 2.0, 0.0]]


def test_statistics_of_the_reference_vector() -> None:
    """mean |q| = 3 / 4; k3 = mean(e^q - q - 1) = (6.706785 - .2 - 4) / 4. One sequence: share 1."""
    found = mismatch_statistics(*vector())
    assert found == pytest.approx(
        {
            "mean": 0.75,
            "max": 1.5,
            "k3": (sum(RATIOS) - 0.2 - 4) / 4,
            "effective_share": 1.0,
            "kept_share": 1.0,
        },
        abs=1e-6,
    )


def test_k3_estimates_the_kl_from_sampler_to_trainer() -> None:
    """mu = (.5, .3, .2) and old = (.1, .3, .6) over tokens drawn in proportion to mu:
    KL(mu || old) = .5 ln 5 + .2 ln(1/3) = .585; KL(old || mu) would be .1 ln(1/5) + .6 ln 3 = .498.
    """
    mu, old = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    drawn = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    mask = torch.ones(1, 10).bool()
    found = mismatch_statistics(old.log()[drawn][None], mu.log()[drawn][None], mask)
    assert found["k3"] == pytest.approx(0.5 * math.log(5) + 0.2 * math.log(1 / 3), abs=1e-6)


def test_kept_share_and_effective_share_of_a_correction() -> None:
    """IcePop keeps 3 of 4 tokens with weights 1.105171, .818731, 4.481689: (sum w)^2 / (4 sum
    w^2).
    """
    correction = correct_mismatch(*vector(), "token_mask", low=0.5, high=5)
    found = mismatch_statistics(*vector(), correction)
    kept = RATIOS[:3]
    assert found["kept_share"] == 0.75
    assert found["effective_share"] == pytest.approx(
        sum(kept) ** 2 / (4 * sum(weight**2 for weight in kept)), abs=1e-6
    )
    nothing = correct_mismatch(*vector(), "geometric_mask", low=0.999, high=1.001)
    empty = mismatch_statistics(*vector(), nothing)
    assert empty["kept_share"] == 0 and empty["effective_share"] == 0


def test_effective_share_of_sequences() -> None:
    """Sums of q 0 and ln 3: (1 + 3)^2 / (2 * (1 + 9)) = .8; overflowing weights stay finite."""
    assert effective_share(torch.tensor([0.0, math.log(3)]).double()) == pytest.approx(0.8)
    assert effective_share(torch.tensor([0.0, 1e4]).double()) == pytest.approx(0.5)


def test_no_trained_token_gives_no_statistics() -> None:
    assert mismatch_statistics(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2).bool()) == {}
