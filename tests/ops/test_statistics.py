"""ALGORITHMS 5, pass@k by enumeration, and the law of the bootstrap."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from align.ops.statistics import (
    best_of_n,
    best_of_n_kl_bound,
    correlation,
    difference_interval,
    distinct_ngrams,
    mean_interval,
    pass_at_k,
    wilson_interval,
)


def test_best_of_n_vector() -> None:
    """(1 * 2 + 2 * 3 + 3 * 4) / 6, whatever the order."""
    assert best_of_n([3, 1, 4, 2], 2) == pytest.approx(3.333333, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    scores = [0.3, -1.0, 2.5, 2.5, 0.1]
    maxima = [max(subset) for subset in itertools.combinations(scores, n)]
    assert best_of_n(scores, n) == pytest.approx(sum(maxima) / len(maxima))


def test_best_of_n_is_worth_what_another_reward_says_of_the_picked_one() -> None:
    """Weights of [1, 2, 3, 4] at n = 2 are 0, 1/6, 2/6, 3/6: (5 + 2 * 6 + 3 * 1) / 6 = 20 / 6."""
    assert best_of_n([1, 2, 3, 4], 2, [9, 5, 6, 1]) == pytest.approx(20 / 6)
    assert best_of_n([4, 1, 3, 2], 2, [1, 9, 6, 5]) == pytest.approx(20 / 6)
    with pytest.raises(ValueError, match="2 scores and 1 values"):
        best_of_n([1, 2], 1, [0])


def test_best_of_n_of_equal_scores_picks_at_random() -> None:
    """Subsets of two of [0, 1, 1]: {0, 1a}, {0, 1b}, {1a, 1b}; b alone is worth 6: (0 + 6 + 3) / 3.
    All equal: the mean.
    """
    assert best_of_n([0, 1, 1], 2, [9, 0, 6]) == pytest.approx(3.0)
    assert best_of_n([0.0, 0.0, 0.0, 0.0], 3, [1, 2, 3, 6]) == pytest.approx(3.0)


def test_wilson_interval_of_known_shares() -> None:
    """8 of 10: centre (0.8 + 3.8415 / 20) / 1.38415 = 0.716739, half 0.226575; 0 of 4 ends at
    3.8415 / 7.8415."""
    found = wilson_interval(8, 10)
    assert found == pytest.approx((0.8, 0.716739 - 0.226575, 0.716739 + 0.226575), abs=1e-5)
    assert wilson_interval(0, 4) == pytest.approx((0.0, 0.0, 0.489890), abs=1e-5)
    assert wilson_interval(2.5, 5).estimate == 0.5
    with pytest.raises(ValueError, match="0 <= right <= total"):
        wilson_interval(1, 0)


def test_correlation_of_three_points_and_of_none() -> None:
    """Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): 3 / sqrt(2 * 14 / 3 ) = 0.981981."""
    assert correlation([1, 2, 3], [1, 2, 4]) == pytest.approx(0.981981, abs=1e-6)
    assert math.isnan(correlation([1, 1], [1, 2])) and math.isnan(correlation([1], [1]))


def test_best_of_n_kl_bound_vector() -> None:
    assert best_of_n_kl_bound(8) == pytest.approx(1.204442, abs=1e-6)
    assert best_of_n_kl_bound(1) == 0


@pytest.mark.parametrize(("right", "k"), [(0, 2), (1, 1), (2, 2), (3, 3), (5, 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(right: int, k: int) -> None:
    verdicts = [True] * right + [False] * (5 - right)
    subsets = [any(subset) for subset in itertools.combinations(verdicts, k)]
    assert pass_at_k(right, 5, k) == pytest.approx(sum(subsets) / len(subsets))


def test_estimates_from_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="k <= samples"):
        pass_at_k(1, 4, 5)
    with pytest.raises(ValueError, match="best of 3 cannot be estimated from 2"):
        best_of_n([1, 2], 3)


def test_distinct_ngrams_counts_over_all_texts() -> None:
    """Bigrams ab, ba, ab and ab: 2 distinct of 4; token ids alike; short texts have none."""
    assert distinct_ngrams(["abab", "ab"], 2) == 0.5
    assert distinct_ngrams([(1, 2, 1, 2), (1, 2)], 2) == 0.5
    assert math.isnan(distinct_ngrams(["a"], 2))


def test_the_estimate_is_the_mean_of_all_values() -> None:
    found = mean_interval([1, 1, 0, 4], ["a", "a", "a", "b"])
    assert found.estimate == 1.5
    assert found.low == pytest.approx(2 / 3) and found.high == 4  # only "a" drawn, only "b" drawn


def test_the_interval_is_over_prompts_not_samples() -> None:
    """100 samples of one prompt are one observation: copying each sample must not narrow the
    interval.
    """
    values = np.random.default_rng(0).normal(size=50).tolist()
    single = mean_interval(values, range(50))
    copied = mean_interval(values * 100, [*range(50)] * 100)
    assert copied.low == pytest.approx(single.low) and copied.high == pytest.approx(single.high)


def test_the_interval_covers_the_truth_at_its_level() -> None:
    """60 prompts of two correlated samples, mean 1: about 95% (percentile: slightly less) of 200
    cover it.
    """
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        prompt = generator.normal(1, 1, size=60)
        values = np.concatenate([prompt, prompt]) + generator.normal(0, 0.5, size=120)
        found = mean_interval(values.tolist(), [*range(60)] * 2, resamples=400, seed=trial)
        covered += found.low <= 1 <= found.high
    assert 0.89 <= covered / 200 <= 0.985


def test_a_paired_difference_removes_what_prompts_share() -> None:
    """Each prompt gains exactly .1, whatever its own level: the interval has no width."""
    levels = np.random.default_rng(2).normal(size=40)
    found = difference_interval(levels.tolist(), range(40), (levels + 0.1).tolist(), range(40))
    assert found == pytest.approx((0.1, 0.1, 0.1))


def test_a_paired_difference_matches_prompts_by_name() -> None:
    """Drawn alone a gives 3 - 1 and b 4 - 2; together they give 10/3 - 3/2."""
    found = difference_interval([1, 2], ["a", "b"], [4, 3, 3], ["b", "a", "a"])
    assert found == pytest.approx((10 / 3 - 1.5, 10 / 3 - 1.5, 2.0))


def test_intervals_repeat_with_their_seed() -> None:
    values = np.random.default_rng(3).normal(size=30).tolist()
    assert mean_interval(values, range(30), seed=5) == mean_interval(values, range(30), seed=5)
    assert mean_interval(values, range(30), seed=5) != mean_interval(values, range(30), seed=6)


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([], [])
    with pytest.raises(ValueError, match="not finite"):
        mean_interval([math.nan], ["a"])
    with pytest.raises(ValueError, match="2 are on one only"):
        difference_interval([1.0], ["a"], [1.0], ["b"])


def test_statistics_and_advantages_import_no_torch() -> None:
    code = "import align.ops.statistics, align.ops.advantage, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
