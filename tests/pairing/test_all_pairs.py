"""Every differing pair, with limits."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from align.pairing.all_pairs import AllPairs
from align.records import Pair


def test_every_pair_that_differs(make_group: Callable) -> None:
    found = AllPairs()(*make_group([1.0, 3.0, 1.0]), None, random.Random(0))
    assert found == [Pair("s1", "s0", 2.0), Pair("s1", "s2", 2.0)]


def test_margin_tokens_and_truncation_leave_pairs_out(make_group: Callable) -> None:
    rng = random.Random(0)
    group = make_group([1.0, 2.0, 4.0])
    assert AllPairs(min_margin=1.0)(*group, None, rng) == [
        Pair("s2", "s0", 3.0),
        Pair("s2", "s1", 2.0),
    ]
    assert AllPairs()(*make_group([1.0, 2.0], tokens=[(5,), (5,)]), None, rng) == []
    cut = make_group([1.0, 2.0, 4.0], cut=[1])
    assert AllPairs()(*cut, None, rng) == [Pair("s2", "s0", 3.0)]
    assert AllPairs(truncated="rejected")(*cut, None, rng) == [
        Pair("s2", "s0", 3.0),
        Pair("s2", "s1", 2.0),
    ]


def test_a_limit_draws_evenly(make_group: Callable) -> None:
    """Six pairs of four, two a time, 3,000 times: each 1,000."""
    group, rng = make_group([1.0, 2.0, 3.0, 4.0]), random.Random(1)
    drawn = Counter(pair for _ in range(3000) for pair in AllPairs(max_pairs=2)(*group, None, rng))
    assert len(drawn) == 6 and all(abs(count - 1000) < 110 for count in drawn.values())
    assert len(AllPairs(max_pairs=99)(*group, None, rng)) == 6


def test_a_judge_decides_and_its_failures_are_skipped(make_group: Callable) -> None:
    """P(0 > 1) = .2, P(0 > 2) failed, P(1 > 2) = .5; logit(.8) = 1.386294."""
    matrix = [[0.5, 0.2, math.nan], [0.8, 0.5, 0.5], [math.nan, 0.5, 0.5]]
    (pair,) = AllPairs()(*make_group([9.0, 1.0, 0.0]), matrix, random.Random(0))
    assert (pair.chosen, pair.rejected) == ("s1", "s0")
    assert pair.margin == pytest.approx(1.386294, abs=1e-6)


def test_a_certain_judge_has_a_finite_margin(make_group: Callable) -> None:
    (pair,) = AllPairs()(*make_group([0.0, 0.0]), [[0.5, 1.0], [0.0, 0.5]], random.Random(0))
    assert pair.chosen == "s0" and pair.margin == pytest.approx(math.log(1e6), abs=1e-3)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs must be at least 1"):
        AllPairs(max_pairs=0)
