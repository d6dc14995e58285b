"""Which samples a rule may use, and the fairness of the shuffle."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from align.candidates import shuffled, usable
from align.records import Sample, Score

SAMPLES = [
    Sample(f"s{place}", "p", place, "", (1,), (place,), (1,), None, "", finish)
    for place, finish in enumerate(["stop", "length", "stop", "stop", "stop"])
]
SCORES = [
    Score("s0", 1.0),
    Score("s1", 2.0),
    Score("s2", None, error="timeout"),
    Score("s3", math.nan),
    Score("s4", -1),
]


def test_failures_and_truncated_samples_are_left_out() -> None:
    """s2 has no score, s3 a NaN; s1 was cut."""
    assert usable(SAMPLES, SCORES, keep_truncated=False) == {0: 1.0, 4: -1.0}
    assert usable(SAMPLES, SCORES, keep_truncated=True) == {0: 1.0, 1: 2.0, 4: -1.0}


def test_columns_that_are_not_joined_are_refused() -> None:
    with pytest.raises(ValueError, match="same sample ids"):
        usable(SAMPLES, SCORES[::-1], keep_truncated=False)
    with pytest.raises(ValueError, match="same sample ids"):
        usable(SAMPLES, SCORES[:-1], keep_truncated=False)
    with pytest.raises(ValueError, match="one prompt at a time"):
        usable([replace(SAMPLES[0], prompt_id="q"), *SAMPLES[1:]], SCORES, keep_truncated=False)


def test_shuffle_is_uniform_and_keeps_its_input() -> None:
    """Six orders of three items, 6,000 draws: each 1,000 with deviation 29; chi-square (5) below
    20.5 (p .001).
    """
    rng, items = random.Random(0), [1, 2, 3]
    counts = Counter(tuple(shuffled(items, rng)) for _ in range(6000))
    assert len(counts) == 6 and items == [1, 2, 3]
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_shuffle_repeats_with_its_seed() -> None:
    assert shuffled(range(9), random.Random(7)) == shuffled(range(9), random.Random(7))
    assert shuffled([], random.Random(0)) == []
