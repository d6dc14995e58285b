"""From scores to advantages, over the columns of a data set (ALGORITHMS 7.3, 8.2). numpy only.

"Batch" means everything given, that is the training data of one iteration: it does not depend on
micro-batches.

| method | baseline | normalise |
|---|---|---|
| REINFORCE, TOPR | `none`, a constant, or `target_positive_share` | `none` |
| RLOO | `leave_one_out` | `none` |
| GRPO | `group_mean` | `group` |
| Dr. GRPO | `group_mean` | `none` |
| TRL's `scale_rewards: batch` | `group_mean` | `batch` |
| REINFORCE++ with several samples a prompt | `group_mean` | `whiten` |
| REINFORCE++ with one | `batch_mean` | `batch` |

REINFORCE++ whitens over all tokens, so that long samples weigh more; here every sample weighs one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Baseline = float | Literal["none", "group_mean", "leave_one_out", "batch_mean"]
Normalise = Literal["none", "group", "batch", "whiten"]
Deviation = Literal["sample", "population"]

EPSILON = 1e-4
"""Added to standard deviations, as TRL does."""


@dataclass(frozen=True)
class Advantages:
    """One value a sample, and what must not go unseen."""

    values: Array
    """(N,), 0 for a sample without a score."""
    constant: float | None
    """The constant baseline c, given or derived; None for the others."""
    positive_share: float
    """Of the samples with an advantage other than 0: p of ALGORITHMS 7.3 where scores are +-1."""
    effective_positive_share: float
    """sum of A over A > 0, divided by the sum of |A|: p~, what the baseline makes of it."""
    counts: dict[str, int]
    """`positive`, `negative`, `zero`, `missing` samples; `groups`, `equal_groups` of them flat."""


def estimate_advantages(
    scores: Sequence[float | None],
    groups: Sequence[Hashable],
    *,
    baseline: Baseline = "none",
    normalise: Normalise = "none",
    deviation: Deviation = "sample",
    target_positive_share: float | None = None,
) -> Advantages:
    """A_i = (R_i - baseline) / scale.

    Baselines: 0 (`none`), a constant, the mean of the prompt's scores, the mean of the prompt's
    *other* scores (RLOO: K / (K - 1) * (R_i - mean)), or the mean of all. Scales: 1, or the
    standard deviation (`sample`: n - 1; `population`: n) plus 1e-4 of the prompt's scores (`group`,
    GRPO), of all scores (`batch`), or of the advantages so far (`whiten`, which takes away their
    mean too). `target_positive_share` picks the constant (`baseline_for_share`).

    Where scores are compared with each other and max == min, the advantage is exactly 0: otherwise
    rounding would be divided by rounding. A missing score (None or NaN) is left out of every mean
    and gets advantage 0.

    Raises ValueError for contradictory options, an infinite score, and a prompt with one sample
    where the estimate needs two.

        >>> estimate_advantages([1, 0, 0, 1], "aaaa", baseline="leave_one_out").values.round(6)
        array([ 0.666667, -0.666667, -0.666667,  0.666667])
    """
    rewards = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    if len(groups) != len(rewards):
        raise ValueError(f"{len(rewards)} scores and {len(groups)} group names")
    if np.isinf(rewards).any():
        raise ValueError("a score is infinite: give it as missing (None) or clip it in the scorer")
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    members = [np.array(indices) for indices in places.values()]
    _check_options(baseline, normalise, target_positive_share, members)

    constant: float | None = None
    if target_positive_share is not None:
        known = rewards[~np.isnan(rewards)]
        constant = baseline_for_share(known, target_positive_share) if len(known) else 0.0
    elif not isinstance(baseline, str):
        constant = float(baseline)

    values, equal_groups = rewards.copy(), 0
    if constant is not None:
        values -= constant
    if baseline == "batch_mean":
        values = _centre(rewards)
    ddof = 1 if deviation == "sample" else 0
    for indices in members:
        own = rewards[indices]
        equal_groups += _is_flat(own)
        if baseline in ("group_mean", "leave_one_out"):
            values[indices] = _centre(own)
        if baseline == "leave_one_out":
            known = int((~np.isnan(own)).sum())
            values[indices] *= known / max(1, known - 1)
        if normalise == "group":
            values[indices] = _divide(values[indices], _deviation(own, ddof))
    if normalise == "batch":
        values = _divide(values, _deviation(rewards, ddof))
    elif normalise == "whiten":
        # centred advantages add up to zero but for rounding, which must not move a flat group off 0
        is_centred = baseline in ("group_mean", "leave_one_out", "batch_mean")
        values = _divide(values if is_centred else _centre(values), _deviation(values, ddof))
    values = np.where(np.isnan(rewards), 0.0, values)
    positive, negative = int((values > 0).sum()), int((values < 0).sum())
    return Advantages(
        values,
        constant,
        positive / max(1, positive + negative),
        float(values[values > 0].sum()) / (float(np.abs(values).sum()) or 1.0),
        {
            "positive": positive,
            "negative": negative,
            "zero": int((values == 0).sum()),
            "missing": int(np.isnan(rewards).sum()),
            "groups": len(members),
            "equal_groups": equal_groups,
        },
    )


def effective_positive_share(share: float, constant: float) -> float:
    """p~ = p (1 - c) / (1 + (1 - 2 p) c) for rewards +-1 and baseline c (ALGORITHMS 7.3)."""
    return share * (1 - constant) / (1 + (1 - 2 * share) * constant)


def baseline_for_share(scores: Array, target: float) -> float:
    """The constant c with sum of (R - c) over R > c = target * sum of |R - c|.

    For rewards +-1 of which a share p is positive it is c = (p - p~) / (p + p~ - 2 p p~)
    (ALGORITHMS 7.3); for any rewards it is their (1 - target)-expectile, found exactly. `target` is
    in (0, 1). Equal scores give c = that score.

        >>> round(baseline_for_share(np.array([1.0] * 7 + [-1.0] * 3), 0.15), 6)
        0.859375
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if not len(ordered):
        raise ValueError("a baseline needs at least one score")
    if ordered[0] == ordered[-1]:
        return float(ordered[0])
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    lower, upper = sums[:-1], sums[-1] - sums[:-1]
    weight = (1 - target) * (len(ordered) - below) + target * below
    candidates = ((1 - target) * upper + target * lower) / weight
    # The solution lies between the last score below it and the first above it, up to rounding.
    outside = np.maximum(ordered[:-1] - candidates, candidates - ordered[1:])
    return float(candidates[np.argmin(outside)])


def _check_options(
    baseline: Baseline, normalise: Normalise, target: float | None, members: list[NDArray[np.int_]]
) -> None:
    if target is not None and not 0 < target < 1:
        raise ValueError(f"target_positive_share must lie between 0 and 1, not {target}")
    if target is not None and baseline != "none":
        raise ValueError(
            f"target_positive_share sets a constant baseline itself: leave out baseline {baseline}"
        )
    if normalise == "whiten" and (target is not None or not isinstance(baseline, str)):
        raise ValueError(
            "normalise: whiten takes the mean away and a constant baseline with it: use batch, or"
            " leave out the constant"
        )
    singles = sum(len(indices) == 1 for indices in members)
    if singles and (baseline == "leave_one_out" or normalise == "group"):
        what = "baseline: leave_one_out" if baseline == "leave_one_out" else "normalise: group"
        raise ValueError(
            f"{what} needs at least two samples of a prompt, and {singles} of {len(members)}"
            " prompts have one"
        )


def _is_flat(rewards: Array) -> bool:
    known = rewards[~np.isnan(rewards)]
    return len(known) == 0 or bool(known.max() == known.min())


def _centre(rewards: Array) -> Array:
    return np.zeros_like(rewards) if _is_flat(rewards) else rewards - np.nanmean(rewards)


def _deviation(rewards: Array, ddof: int) -> float:
    """0 for scores that do not differ."""
    return 0.0 if _is_flat(rewards) else float(np.nanstd(rewards, ddof=ddof))


def _divide(values: Array, deviation: float) -> Array:
    return np.zeros_like(values) if deviation == 0 else values / (deviation + EPSILON)
