"""ALGORITHMS 6.2 and 6.8: best against second best, and against the best of another sampler."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from align.pairing.max_max import MaxMax
from align.records import Pair

RNG = random.Random(0)


def test_best_meets_second_best(make_group: Callable) -> None:
    assert MaxMax()(*make_group([0.25, 1.5, -0.5, 1.0]), None, RNG) == [Pair("s1", "s3", 0.5)]


def test_reference_vector_has_two_best_and_no_pair(make_group: Callable) -> None:
    """Rewards [0.2, 1.1, -0.4, 1.1]: the two entries that would meet are tied."""
    assert MaxMax()(*make_group([0.2, 1.1, -0.4, 1.1]), None, RNG) == []
    assert MaxMax(min_margin=0.5)(*make_group([1.0, 1.5]), None, RNG) == []
    assert MaxMax()(*make_group([1.0]), None, RNG) == []
    assert MaxMax()(*make_group([None, None]), None, RNG) == []


def test_best_of_one_sampler_meets_best_of_another(make_group: Callable) -> None:
    """Policy "new" drew 1.5 and 1.0, "old" 0.25 and -0.5; then one of "new" at temperature 0.7."""
    samples, scores = make_group([0.25, 1.5, -0.5, 1.0])
    policies = ["old", "new", "old", "new"]
    mixed = [replace(s, policy=name) for s, name in zip(samples, policies, strict=True)]
    rule = MaxMax(between="samplers")
    assert rule(mixed, scores, None, RNG) == [Pair("s1", "s0", 1.25)]
    mixed[3] = replace(mixed[3], temperature=0.7)
    assert rule(mixed, scores, None, RNG) == [Pair("s1", "s3", 0.5)]
    assert rule(samples, scores, None, RNG) == [], "all samples are of one sampler"
    signed = [replace(s, meta={"sampler": int(i == 2)}) for i, s in enumerate(samples)]
    assert rule(signed, scores, None, RNG) == [Pair("s1", "s2", 2.0)]


def test_a_cut_best_is_never_chosen(make_group: Callable) -> None:
    group = make_group([4.0, 3.0, 2.0, 1.0], cut=[0, 2])
    assert MaxMax()(*group, None, RNG) == [Pair("s1", "s3", 2.0)]
    assert MaxMax(truncated="rejected")(*group, None, RNG) == [Pair("s1", "s2", 1.0)]
    assert MaxMax(truncated="keep")(*group, None, RNG) == [Pair("s0", "s1", 1.0)]


def test_a_judge_ranks_by_win_rate(make_group: Callable) -> None:
    """Mean win rates (.9 + .6) / 2 = .75, (.1 + .3) / 2 = .2 and (.4 + .7) / 2 = .55."""
    matrix = [[0.5, 0.9, 0.6], [0.1, 0.5, 0.3], [0.4, 0.7, 0.5]]
    (pair,) = MaxMax()(*make_group([0.0, 0.0, 0.0]), matrix, RNG)
    assert (pair.chosen, pair.rejected) == ("s0", "s2") and abs(pair.margin - 0.2) < 1e-12
