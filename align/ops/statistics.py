"""Estimates from scored samples, and their uncertainty. numpy only, so that reports need no torch.

Samples of one prompt are not independent, so intervals resample prompts (clusters), never samples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import groupby
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Enough for the ends of a 95% interval to be stable to about a tenth of its width."""
BLOCK = 1_000_000
"""Drawn indices held at once."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval, in the units of the values."""

    estimate: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float],
    prompts: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of all values with a percentile bootstrap interval over prompts.

    Raises ValueError for no values or a value that is not finite (leave failures out and count
    them).
    """
    clusters = _sum_clusters(values, prompts)
    table = np.array(list(clusters.values()))
    means = [sums[:, 0] / sums[:, 1] for sums in _resample(table, resamples, seed)]
    return _interval(float(table[:, 0].sum() / table[:, 1].sum()), np.concatenate(means), level)


def difference_interval(
    first: Sequence[float],
    first_prompts: Sequence[Hashable],
    second: Sequence[float],
    second_prompts: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """mean(second) - mean(first), paired: each resample draws the same prompts for both.

    Raises ValueError where the two were not measured on the same prompts.
    """
    one, two = _sum_clusters(first, first_prompts), _sum_clusters(second, second_prompts)
    if one.keys() != two.keys():
        alone = len(one.keys() ^ two.keys())
        raise ValueError(
            f"a paired difference needs the same prompts on both sides; {alone} are on one only"
        )
    table = np.array([one[prompt] + two[prompt] for prompt in one])
    total = table.sum(0)
    means = [
        sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]
        for sums in _resample(table, resamples, seed)
    ]
    return _interval(float(total[2] / total[3] - total[0] / total[1]), np.concatenate(means), level)


def wilson_interval(right: float, total: int, *, level: float = 0.95) -> Interval:
    """Share `right / total` with Wilson's score interval, which stays inside [0, 1].

    Half counts (ties) are allowed. Where items are not independent, use `mean_interval`.

        >>> [round(value, 3) for value in wilson_interval(8, 10)]
        [0.8, 0.49, 0.943]
    """
    if not (total >= 1 and 0 <= right <= total):
        raise ValueError(f"a share needs 0 <= right <= total and total >= 1: {right}, {total}")
    share, z = right / total, NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's r; NaN where there are fewer than two pairs of values or one side is constant.

    >>> round(correlation([1, 2, 3], [1, 2, 4]), 6)
    0.981981
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)} values")
    if len(first) < 2 or min(first) == max(first) or min(second) == max(second):
        return math.nan
    return float(np.corrcoef(np.asarray(first, float), np.asarray(second, float))[0, 1])


def pass_at_k(right: int, samples: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples, c of them right, hold one.

    Unbiased for the chance that k fresh samples do (Chen et al. 2021, arXiv:2107.03374, eq. 1).

        >>> pass_at_k(1, 4, 2)
        0.5
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"pass@k needs 0 <= right <= samples and 1 <= k <= samples: {right}, {samples}, {k}"
        )
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def best_of_n(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """The mean of the maximum over all subsets of n scores: unbiased for the best of n.

    Sorted ascending, the i-th of N weighs C(i - 1, n - 1) / C(N, n) (ALGORITHMS 5). With `values`
    it is what the picked one is worth there: the scores pick, another reward judges. Equal scores
    share their weights, as if one of them were picked at random.

        >>> round(best_of_n([1, 2, 3, 4], 2), 6)
        3.333333
        >>> round(best_of_n([1, 2, 3, 4], 2, [0, 0, 6, 0]), 6)
        2.0
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"best of {n} cannot be estimated from {len(scores)} scores")
    judged = scores if values is None else values
    if len(judged) != len(scores):
        raise ValueError(f"{len(scores)} scores and {len(judged)} values")
    total = math.comb(len(scores), n)
    order = sorted(range(len(scores)), key=scores.__getitem__)
    found, place = 0.0, 0
    for _, block in groupby(order, key=scores.__getitem__):
        tied = [judged[index] for index in block]
        # Subsets whose maximum lies in the block: those of its end less those of its beginning.
        picks = math.comb(place + len(tied), n) - math.comb(place, n)
        found += picks / total * math.fsum(tied) / len(tied)
        place += len(tied)
    return found


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n in nats: KL(best-of-n || base) is at most this, equal without ties."""
    return math.log(n) - (n - 1) / n


def distinct_ngrams(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Distinct n-grams over all n-grams of all texts (tokens or characters); NaN without any.

    >>> distinct_ngrams(["abab"], 2)
    0.6666666666666666
    """
    if n < 1:
        raise ValueError(f"n-grams need n >= 1, not {n}")
    grams = [tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _sum_clusters(
    values: Sequence[float], prompts: Sequence[Hashable]
) -> dict[Hashable, tuple[float, float]]:
    """(sum, count) of each prompt's values, in order of first appearance."""
    if len(values) != len(prompts):
        raise ValueError(f"{len(values)} values and {len(prompts)} prompts")
    if not len(values):
        raise ValueError("an interval needs at least one value")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a value is not finite: leave failed samples out, and count them")
    clusters: dict[Hashable, tuple[float, float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        total, count = clusters.get(prompt, (0.0, 0.0))
        clusters[prompt] = (total + float(value), count + 1.0)
    return clusters


def _resample(table: NDArray[np.float64], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """Column sums of tables of as many rows drawn with replacement, in blocks of resamples."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // len(table))
    sums = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(len(table), size=(count, len(table)))
        sums.append(np.stack([column[drawn].sum(1) for column in table.T], axis=1))
    return sums


def _interval(estimate: float, resampled: NDArray[np.float64], level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not {level}")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
