"""Whether score differences are log-odds: Bradley-Terry's P(first preferred) = sigmoid(r_1 - r_2).

`gaps` are r_chosen - r_rejected of labelled pairs. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BINS = 10
"""Of confidence, from 0.5 to 1."""


def log_loss(gaps: Sequence[float], scale: float = 1.0) -> float:
    """Mean of -log sigmoid(scale x gap) in nats; ln 2 = 0.693 knows nothing (ALGORITHMS 2.1).

    >>> round(log_loss([1.2 - 0.5]), 6)
    0.403186
    """
    return math.fsum(_softplus(-scale * gap) for gap in gaps) / len(gaps)


def calibration_error(gaps: Sequence[float]) -> float:
    """Expected calibration error: |accuracy - confidence| in bins of confidence, weighted by size.

    The confidence of a pair is sigmoid(|gap|); it is right where gap > 0, half right at 0.

        >>> round(calibration_error([0.0, 0.0]), 6)   # says 0.5, is half right
        0.0
        >>> round(calibration_error([-1.0]), 6)       # says sigmoid(1) = 0.731059, is wrong
        0.731059
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for gap in gaps:
        confidence = math.exp(-_softplus(-abs(gap)))
        place = min(int((confidence - 0.5) * 2 * BINS), BINS - 1)
        bins[place].append((confidence, 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0))
    off = [abs(math.fsum(right - confidence for confidence, right in held)) for held in bins]
    return math.fsum(off) / len(gaps)


def best_scale(gaps: Sequence[float]) -> float:
    """The s >= 0 that minimises `log_loss(gaps, s)`: multiply the scores by it to calibrate them.

    0 where the mean gap is not above 0 (more scale only makes it worse), infinite where no gap is
    below 0. Gaps of +1 three times and -1 once: sigmoid(s) = 3/4, so s = ln 3 = 1.098612.
    """
    if math.fsum(gaps) <= 0:
        return 0.0
    if min(gaps) >= 0:
        return math.inf
    low, high = 0.0, 1.0
    while _slope(gaps, high) > 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(gaps, middle) > 0 else (low, middle)
    return (low + high) / 2


def _slope(gaps: Sequence[float], scale: float) -> float:
    """Derivative of the log-likelihood: sum of gap x sigmoid(-scale x gap)."""
    return math.fsum(gap * math.exp(-_softplus(scale * gap)) for gap in gaps)


def _softplus(value: float) -> float:
    """log(1 + e^value) without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
