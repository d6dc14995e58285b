"""Shares of a mixture."""

from __future__ import annotations

from collections import Counter

import pytest

from align.data.mixture import mix
from align.errors import DataError


def test_equal_weights_alternate() -> None:
    assert mix([["a", "b", "c", "d"], ["x", "y"]], [1, 1], None) == ["a", "x", "b", "y"]


def test_every_beginning_has_the_shares() -> None:
    parts = [["a"] * 1000, ["b"] * 1000, ["c"] * 1000]
    mixed = mix(parts, [0.5, 0.3, 0.2], None)
    assert len(mixed) == 2000
    for size in (100, 500, 2000):
        counts = Counter(mixed[:size])
        assert abs(counts["a"] - 0.5 * size) <= 1 and abs(counts["c"] - 0.2 * size) <= 1


def test_quotas_sum_to_the_limit() -> None:
    """7 rows at 1:1:1 are 7/3 each: the first part gets the odd one."""
    counts = Counter(mix([["a"] * 9, ["b"] * 9, ["c"] * 9], [1, 1, 1], 7))
    assert counts == {"a": 3, "b": 2, "c": 2}


def test_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match="part 2 of the mix has no rows"):
        mix([["a"], []], [1, 1], None)
