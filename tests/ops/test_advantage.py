"""ALGORITHMS 8.2 and 7.3 to the number, and what happens to flat, missing and lonely scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.ops.advantage import (
    Baseline,
    Normalise,
    baseline_for_share,
    effective_positive_share,
    estimate_advantages,
)

GROUP = [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("baseline", "normalise", "expected"),
    [
        ("none", "none", [1, 0, 0, 1]),
        (1.0, "none", [0, -1, -1, 0]),  # ReMax with greedy reward 1
        ("leave_one_out", "none", [0.666667, -0.666667, -0.666667, 0.666667]),
        ("group_mean", "none", [0.5, -0.5, -0.5, 0.5]),
        ("group_mean", "group", [0.865875, -0.865875, -0.865875, 0.865875]),
    ],
)
def test_reference_vectors(baseline: Baseline, normalise: Normalise, expected: list[float]) -> None:
    """R = [1, 0, 0, 1]: std (n - 1) is .57735, and .5 / (.57735 + 1e-4) = .865875."""
    found = estimate_advantages(GROUP, "aaaa", baseline=baseline, normalise=normalise)
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)


def test_batch_mean_and_batch_deviation_span_prompts() -> None:
    """R = 0 2 | 4 6: mean 3, std sqrt(20 / 3) = 2.581989; group means 1 and 5."""
    scores, groups = [0.0, 2.0, 4.0, 6.0], ["a", "a", "b", "b"]
    whole = estimate_advantages(scores, groups, baseline="batch_mean", normalise="batch")
    scale = math.sqrt(20 / 3) + 1e-4
    assert whole.values.tolist() == pytest.approx([-3 / scale, -1 / scale, 1 / scale, 3 / scale])
    mixed = estimate_advantages(scores, groups, baseline="group_mean", normalise="batch")
    assert mixed.values.tolist() == pytest.approx([-1 / scale, 1 / scale] * 2)


def test_population_deviation() -> None:
    """R = [1, 0, 0, 1] deviates by .5 over n: .5 / (.5 + 1e-4), the +-1 of ALGORITHMS 8.2 but for
    epsilon. Over all scores 0 2 | 4 6 it is sqrt(20 / 4).
    """
    found = estimate_advantages(
        GROUP, "aaaa", baseline="group_mean", normalise="group", deviation="population"
    )
    assert found.values.tolist() == pytest.approx([s * 0.5 / 0.5001 for s in (1, -1, -1, 1)])
    whole = estimate_advantages(
        [0, 2, 4, 6], "aabb", baseline="batch_mean", normalise="batch", deviation="population"
    )
    assert whole.values[3] == pytest.approx(3 / (math.sqrt(5) + 1e-4))


def test_whitening_divides_by_the_deviation_of_the_advantages() -> None:
    """REINFORCE++ with groups: R = 0 2 | 4 8 centred is -1 1 -2 2, whose deviation is
    sqrt(10 / 3); that of the scores is sqrt(35 / 3).
    """
    found = estimate_advantages([0, 2, 4, 8], "aabb", baseline="group_mean", normalise="whiten")
    scale = math.sqrt(10 / 3) + 1e-4
    assert found.values.tolist() == pytest.approx([-1 / scale, 1 / scale, -2 / scale, 2 / scale])


def test_whitening_without_a_baseline_centres() -> None:
    """R = 1 2 3: mean 2, deviation 1; the same as batch_mean with batch."""
    found = estimate_advantages([1, 2, 3], "abc", normalise="whiten")
    assert found.values.tolist() == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])
    other = estimate_advantages([1, 2, 3], "abc", baseline="batch_mean", normalise="batch")
    assert found.values.tolist() == pytest.approx(other.values.tolist())


def test_whitening_keeps_a_flat_group_at_exactly_zero() -> None:
    """A missing score stays out of both mean and deviation."""
    scores = [0.7, 0.7, 0.1, 0.4, 0.6, None]
    found = estimate_advantages(scores, "aabbbb", baseline="group_mean", normalise="whiten")
    assert found.values[:2].tolist() == [0, 0] and found.values[5] == 0
    known = found.values[2:5]
    assert known.std(ddof=0) > 0 and abs(known.mean()) < 1e-9


@pytest.mark.parametrize("baseline", ["none", "group_mean", "leave_one_out", "batch_mean"])
def test_whitening_equal_scores_gives_exactly_zero(baseline: Baseline) -> None:
    found = estimate_advantages([0.7] * 7, "a" * 7, baseline=baseline, normalise="whiten")
    assert found.values.tolist() == [0.0] * 7


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out", "batch_mean"])
@pytest.mark.parametrize("normalise", ["none", "group", "batch"])
def test_equal_scores_give_exactly_zero(baseline: Baseline, normalise: Normalise) -> None:
    """Seven scores of .7, whose mean is not .7 in floating point."""
    found = estimate_advantages([0.7] * 7, "a" * 7, baseline=baseline, normalise=normalise)
    assert found.values.tolist() == [0.0] * 7
    assert found.counts["equal_groups"] == 1 and found.counts["zero"] == 7


def test_dividing_by_no_spread_gives_zero_not_a_huge_number() -> None:
    """Without a baseline a flat group of ones would become 1 / 1e-4."""
    found = estimate_advantages([1, 1], "aa", normalise="group")
    assert found.values.tolist() == [0, 0]
    assert estimate_advantages([1, 1], "ab", normalise="batch").values.tolist() == [0, 0]


def test_a_flat_group_stays_zero_beside_one_that_differs() -> None:
    found = estimate_advantages([0.7, 0.7, 1, 0], "aabb", baseline="group_mean", normalise="group")
    assert found.values[:2].tolist() == [0, 0]
    assert found.values[2] == -found.values[3] > 0.7
    assert found.counts["groups"] == 2 and found.counts["equal_groups"] == 1


@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_scores_leave_the_baseline_and_get_zero(missing: float | None) -> None:
    """Of [1, missing, 0, 0] the known have mean 1/3; leave-one-out of the first is 1 - 0."""
    mean = estimate_advantages([1, missing, 0, 0], "aaaa", baseline="group_mean")
    assert mean.values.tolist() == pytest.approx([2 / 3, 0, -1 / 3, -1 / 3])
    other = estimate_advantages([1, missing, 0, 0], "aaaa", baseline="leave_one_out")
    assert other.values.tolist() == pytest.approx([1, 0, -0.5, -0.5])
    constant = estimate_advantages([1, missing], "aa", baseline=0.5)
    assert constant.values.tolist() == [0.5, 0.0]
    assert constant.counts == {
        "positive": 1,
        "negative": 0,
        "zero": 1,
        "missing": 1,
        "groups": 1,
        "equal_groups": 1,
    }


def test_groups_need_not_be_contiguous() -> None:
    found = estimate_advantages([1, 10, 3, 20], ["a", "b", "a", "b"], baseline="group_mean")
    assert found.values.tolist() == [-1, -5, 1, 5]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"normalise": "group"}, "at least two samples of a prompt, and 1 of 2 prompts have one"),
        ({"baseline": "leave_one_out"}, "at least two samples"),
        ({"target_positive_share": 1.0}, "between 0 and 1"),
        ({"target_positive_share": 0.2, "baseline": "group_mean"}, "leave out baseline group_mean"),
        ({"target_positive_share": 0.2, "normalise": "whiten"}, "whiten takes the mean away"),
        ({"baseline": 0.5, "normalise": "whiten"}, "whiten takes the mean away"),
    ],
)
def test_impossible_estimates_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        estimate_advantages([1, 0, 1], "aab", **options)  # type: ignore[arg-type]


def test_infinite_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        estimate_advantages([math.inf, 0], "aa")


@pytest.mark.parametrize(
    ("share", "constant", "expected"), [(0.5, 0.5, 0.25), (0.5, 0.8, 0.10), (0.1, -0.5, 0.25)]
)
def test_effective_share_vectors(share: float, constant: float, expected: float) -> None:
    """ALGORITHMS 7.3."""
    assert effective_positive_share(share, constant) == pytest.approx(expected)


@pytest.mark.parametrize(("positives", "expected"), [(14, 0.859375), (1, -0.540541)])
def test_constant_for_a_target_share_vectors(positives: int, expected: float) -> None:
    """ALGORITHMS 7.3 with 20 scores of +-1 and target .15: p = .7 and p = .05."""
    scores = [1.0] * positives + [-1.0] * (20 - positives)
    found = estimate_advantages(scores, range(20), target_positive_share=0.15)
    assert found.constant == pytest.approx(expected, abs=1e-6)
    assert found.values.clip(min=0).sum() / abs(found.values).sum() == pytest.approx(0.15)


@pytest.mark.parametrize("score", [1.0, -1.0, 0.3])
def test_a_share_that_no_constant_reaches_gives_zero(score: float) -> None:
    found = estimate_advantages([score] * 3, "aaa", target_positive_share=0.15)
    assert found.values.tolist() == [0.0] * 3 and found.constant == score


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(
        lambda scores: max(scores) - min(scores) > 1e-3
    ),
    st.floats(0.01, 0.99),
)
def test_any_scores_reach_the_target_share(scores: list[float], target: float) -> None:
    constant = baseline_for_share(np.array(scores), target)
    values = np.array(scores) - constant
    assert values.clip(min=0).sum() / abs(values).sum() == pytest.approx(target, abs=1e-6)


@given(
    st.lists(st.floats(-10, 10), min_size=4, max_size=12),
    st.sampled_from(["group_mean", "leave_one_out", "batch_mean"]),
    st.floats(-5, 5),
)
def test_centred_estimators_ignore_a_shift_of_all_scores(
    scores: list[float], baseline: Baseline, shift: float
) -> None:
    groups = [index % 2 for index in range(len(scores))]
    before = estimate_advantages(scores, groups, baseline=baseline).values
    after = estimate_advantages([s + shift for s in scores], groups, baseline=baseline).values
    np.testing.assert_allclose(before, after, atol=1e-9)
    assert before.sum() == pytest.approx(0, abs=1e-9)


def test_shares_of_positives_before_and_after_the_baseline() -> None:
    """7.3 with p = .7 and target .15: seven of ten are positive, and c = .859375 leaves them
    7 * .140625 of 7 * .140625 + 3 * 1.859375.
    """
    found = estimate_advantages([1.0] * 7 + [-1.0] * 3, range(10), target_positive_share=0.15)
    assert (found.positive_share, found.constant) == (0.7, pytest.approx(0.859375))
    assert found.effective_positive_share == pytest.approx(0.15)
    assert estimate_advantages([1.0, 1.0], range(2), baseline=1.0).effective_positive_share == 0
