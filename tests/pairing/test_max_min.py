"""ALGORITHMS 6.8 and 6.7: the pair, its ties, its length penalty and when there is none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from align.pairing.max_min import MaxMin, best_and_worst
from align.records import Pair

VALUES = [0.2, 1.1, -0.4, 1.1]
TOKENS = [tuple(range(place, place + length)) for place, length in enumerate([10, 50, 20, 30])]


def test_reference_vector_by_index() -> None:
    """(1, 2); penalised by .02 a token [0, .1, -.8, .5] it is (3, 2); equal values have no best."""
    assert best_and_worst(VALUES) == (1, 2)
    penalised = [v - 0.02 * len(t) for v, t in zip(VALUES, TOKENS, strict=True)]
    assert penalised == pytest.approx([0, 0.1, -0.8, 0.5])
    assert best_and_worst(penalised) == (3, 2)
    assert best_and_worst([1.1, 1.1]) is None
    assert best_and_worst([]) is None


def test_reference_vector_by_the_rule(make_group: Callable) -> None:
    """The first of the tied best against the worst; with the penalty the shorter of the best."""
    group = make_group(VALUES, tokens=TOKENS)
    rng = random.Random(2)
    (pair,) = MaxMin()(*group, None, rng)
    assert (pair.chosen, pair.rejected) == ("s1", "s2") and pair.margin == pytest.approx(1.5)
    (pair,) = MaxMin(length_penalty=0.02)(*group, None, rng)
    assert (pair.chosen, pair.rejected) == ("s3", "s2")
    assert pair.margin == pytest.approx(1.3)


@pytest.mark.parametrize(("min_margin", "count"), [(0.0, 1), (1.4, 1), (1.5, 0), (2.0, 0)])
def test_small_margins_make_no_pair(min_margin: float, count: int, make_group: Callable) -> None:
    """The margin is 1.5 and must be exceeded."""
    group = make_group([0.0, 1.5, 1.0])
    assert len(MaxMin(min_margin=min_margin)(*group, None, random.Random(0))) == count


def test_no_pair_without_a_difference(make_group: Callable) -> None:
    rng = random.Random(0)
    assert MaxMin()(*make_group([0.7, 0.7, 0.7]), None, rng) == []
    assert MaxMin()(*make_group([1.0, 0.0], tokens=[(1, 2), (1, 2)]), None, rng) == []
    assert MaxMin()(*make_group([1.0]), None, rng) == []
    assert MaxMin()(*make_group([]), None, rng) == []
    assert MaxMin()(*make_group([None, 1.0]), None, rng) == []


def test_truncated_samples_are_dropped_rejected_or_kept(make_group: Callable) -> None:
    """The best (s0) and the worst (s3) were cut."""
    group, rng = make_group([4.0, 3.0, 2.0, 1.0], cut=[0, 3]), random.Random(0)
    assert MaxMin()(*group, None, rng) == [Pair("s1", "s2", 1.0)]
    assert MaxMin(truncated="rejected")(*group, None, rng) == [Pair("s1", "s3", 2.0)]
    assert MaxMin(truncated="keep")(*group, None, rng) == [Pair("s0", "s3", 3.0)]


def test_a_judge_replaces_scores_by_win_rates(make_group: Callable) -> None:
    """Win rates .75, .45, .3 (NaN left out); the scores would say the contrary."""
    matrix = [[0.5, 0.8, 0.7], [0.2, 0.5, 0.7], [0.3, math.nan, 0.5]]
    (pair,) = MaxMin()(*make_group([0.0, 1.0, 2.0]), matrix, random.Random(0))
    assert (pair.chosen, pair.rejected) == ("s0", "s2")
    assert pair.margin == pytest.approx(0.45)


def test_impossible_options_and_matrices_are_refused(make_group: Callable) -> None:
    with pytest.raises(ValueError, match="min_margin"):
        MaxMin(min_margin=-1)
    with pytest.raises(ValueError, match="length_penalty"):
        MaxMin(length_penalty=-0.1)
    with pytest.raises(ValueError, match="square"):
        MaxMin()(*make_group([0.0, 1.0]), [[0.5]], random.Random(0))
