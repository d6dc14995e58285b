"""Dropping a share of all pairs by margin."""

from __future__ import annotations

import pytest

from align.pairing.margins import above_quantile


@pytest.mark.parametrize(
    ("margins", "quantile", "stays"),
    [
        ([0.4, 0.1, 0.3, 0.2], 0.5, "1010"),  # rank 2 of .1 .2 .3 .4 is .3
        ([0.4, 0.1, 0.3, 0.2], 0.49, "1011"),  # rank 1 is .2
        ([0.4, 0.1, 0.3, 0.2], 0.2, "1111"),  # rank 0: a fifth of four is none
        ([1.0, 1.0, 1.0], 0.9, "111"),  # all tie with the threshold
        ([], 0.5, ""),
    ],
)
def test_smallest_margins_go(margins: list[float], quantile: float, stays: str) -> None:
    assert above_quantile(margins, quantile) == [place == "1" for place in stays]
