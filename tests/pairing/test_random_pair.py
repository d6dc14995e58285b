"""ALGORITHMS 6.2: best against a random other, and two random samples; the laws, by counting."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from align.pairing.random_pair import MaxRandom, RandomPair
from align.records import Pair

DRAWS = 3000
TOLERANCE = 0.035
"""Four standard errors of a share of a third: 4 sqrt(2 / 9 / 3000)."""


def shares(rule: MaxRandom | RandomPair, make_group: Callable, values: list[float]) -> Counter[str]:
    rng = random.Random(1)
    group = make_group(values)
    met = [rule(*group, None, rng) for _ in range(DRAWS)]
    return Counter("".join((p.chosen + p.rejected) for p in pairs) for pairs in met)


def test_max_random_draws_each_other_alike(make_group: Callable) -> None:
    found = shares(MaxRandom(), make_group, [0.5, 2.0, 1.0, -1.0])
    assert set(found) == {"s1s0", "s1s2", "s1s3"}
    assert all(count / DRAWS == pytest.approx(1 / 3, abs=TOLERANCE) for count in found.values())


def test_random_draws_each_couple_alike_and_labels_it(make_group: Callable) -> None:
    """Of three samples three couples; the two that tie make no pair."""
    found = shares(RandomPair(), make_group, [0.5, 2.0, 0.5])
    assert set(found) == {"s1s0", "s1s2", ""}
    assert all(count / DRAWS == pytest.approx(1 / 3, abs=TOLERANCE) for count in found.values())


@pytest.mark.parametrize("rule", [MaxRandom, RandomPair])
def test_no_pair_without_a_difference(rule: type, make_group: Callable) -> None:
    rng = random.Random(0)
    assert rule()(*make_group([1.0]), None, rng) == []
    assert rule()(*make_group([None, 1.0]), None, rng) == []
    assert rule()(*make_group([1.0, 1.0]), None, rng) == []
    assert rule(min_margin=1.0)(*make_group([1.0, 2.0]), None, rng) == []
    assert rule()(*make_group([1.0, 2.0]), None, rng) == [Pair("s1", "s0", 1.0)]
    cut = make_group([1.0, 2.0], cut=[1])
    assert rule()(*cut, None, rng) == []
    assert rule(truncated="rejected")(*cut, None, rng) == []
    assert rule(truncated="keep")(*cut, None, rng) == [Pair("s1", "s0", 1.0)]
