"""How built-in data sets keep their splits apart: a fixed share of all problems each, the same for
every seed.
"""

from __future__ import annotations

import hashlib

from align.errors import DataError

SHARES: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.4),
    "prompts": (0.4, 0.8),
    "validation": (0.8, 0.9),
    "test": (0.9, 1.0),
}
"""Where each split begins and ends in [0, 1): demonstrations, prompts of the online loop, tuning,
reporting."""
_KEY = "align.data.builtin 1"
"""Part of every hash here; another key would move problems between splits."""


def share_of(split: str) -> tuple[float, float]:
    """Begin and end of a split in [0, 1). Raises `DataError` for an unknown one."""
    if split not in SHARES:
        raise DataError(f"built-in data have no split {split!r}; they have {', '.join(SHARES)}")
    return SHARES[split]


def uniform(text: str) -> float:
    """A fixed number in [0, 1) for a problem's canonical text; it belongs to the split whose share
    holds it.
    """
    digest = hashlib.blake2b(f"{_KEY} {text}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def unshuffle_pair(place: int, size: int) -> tuple[int, int]:
    """The pair (a, b), both in [0, size), at `place` of a fixed pseudo-random order of all size *
    size pairs.

    A Feistel network over pairs, (a, b) -> (b, a + F(b) mod size): each round is a bijection, so
    every pair has one place and intervals of places are disjoint sets of pairs.
    """
    a, b = divmod(place, size)
    for turn in range(4):
        a, b = b, (a + _round(turn, b)) % size
    return a, b


def _round(turn: int, value: int) -> int:
    digest = hashlib.blake2b(f"{_KEY} {turn} {value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)
