"""Mixtures: rows of several lists in proportion to their weights, without repeating any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from align.errors import DataError

Item = TypeVar("Item")


def mix(parts: Sequence[Sequence[Item]], weights: Sequence[float], limit: int | None) -> list[Item]:
    """Interleaves the first rows of each part so that every beginning of the result has the shares
    of `weights`.

    It ends where a part would run out before its share is filled (no row is ever repeated), or at
    `limit` rows. Raises `DataError` for an empty part.

        mix([["a", "b", "c", "d"], ["x", "y"]], [1, 1], None) == ["a", "x", "b", "y"]
    """
    for index, part in enumerate(parts):
        if not part:
            raise DataError(
                f"part {index + 1} of the mix has no rows; remove it or correct its split"
            )
    shares = [weight / sum(weights) for weight in weights]
    total = min(
        math.floor(len(part) / share + 1e-9) for part, share in zip(parts, shares, strict=True)
    )
    total = total if limit is None else min(total, limit)
    counts = _quotas(shares, total, [len(part) for part in parts])
    # The k-th row of a part stands where its share says that k + 1/2 rows of it should have been
    # seen.
    order = sorted(
        ((k + 0.5) / share, index, k)
        for index, (share, count) in enumerate(zip(shares, counts, strict=True))
        for k in range(count)
    )
    return [parts[index][k] for _, index, k in order]


def _quotas(shares: Sequence[float], total: int, available: Sequence[int]) -> list[int]:
    """Whole numbers nearest to `shares * total` that sum to it (largest remainders first)."""
    exact = [share * total for share in shares]
    counts = [
        min(math.floor(value + 1e-9), size) for value, size in zip(exact, available, strict=True)
    ]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder:
        if sum(counts) < total and counts[index] < available[index]:
            counts[index] += 1
    return counts
