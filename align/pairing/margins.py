"""Which pairs of a whole data set stay: a data-set-level step, a pure function over one column."""

from __future__ import annotations

from collections.abc import Sequence


def above_quantile(margins: Sequence[float], quantile: float) -> list[bool]:
    """Whether each margin stays where the share `quantile` of the smallest ones is dropped.

    The threshold is the margin of rank floor(quantile * n) in ascending order; what lies below it
    goes. So at most that share is dropped, and none of the pairs that tie with the threshold.

        >>> above_quantile([0.1, 0.9, 0.4, 0.4], 0.5)
        [False, True, True, True]
    """
    if not margins:
        return []
    threshold = sorted(margins)[min(int(quantile * len(margins)), len(margins) - 1)]
    return [margin >= threshold for margin in margins]
