"""ALGORITHMS 4.7: who meets whom, and 4.6: ties and odd numbers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from align.pairing.first_round import FirstRound
from align.pairing.tournament import Tournament, play

SCORES = {"A": 0.3, "B": 0.9, "C": 0.1, "D": 0.5, "E": 0.8, "F": 0.2, "G": 0.6, "H": 0.4}


def matches_of(count: int, values: list[float] | None = None) -> list[tuple[int, int]]:
    scores = values or list(SCORES.values())
    return [m[:2] for m in play(range(count), lambda one, two: scores[one] - scores[two])]


def test_reference_vector() -> None:
    """B>A, D>C, E>F, G>H, B>D, E>G, B>E."""
    names = "".join(SCORES)
    found = [f"{names[winner]}>{names[loser]}" for winner, loser in matches_of(8)]
    assert found == ["B>A", "D>C", "E>F", "G>H", "B>D", "E>G", "B>E"]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1), (6, 5), (7, 5), (8, 7)]
)
def test_even_numbers_play_all_and_odd_ones_leave_one_out(count: int, expected: int) -> None:
    """n - 1 matches of an even n, n - 2 of an odd one: three winners of six give one a bye."""
    assert len(matches_of(count)) == expected


def test_the_first_goes_on_after_a_tie() -> None:
    """0 = 1, 3 > 2, then 3 > 0."""
    assert matches_of(4, [1.0, 1.0, 0.0, 2.0]) == [(0, 1), (3, 2), (3, 0)]


def test_tournament_pairs_are_right_and_complete(make_group: Callable) -> None:
    """Whatever the draw: 7 pairs, every sample but the best loses exactly once."""
    values = list(SCORES.values())
    for seed in range(20):
        pairs = Tournament()(*make_group(values), None, random.Random(seed))
        assert Counter(pair.rejected for pair in pairs) == {
            f"s{place}": 1 for place in range(8) if place != 1
        }
        for pair in pairs:
            lead = values[int(pair.chosen[1:])] - values[int(pair.rejected[1:])]
            assert pair.margin == pytest.approx(lead) and lead > 0


def test_first_round_is_the_tournaments_first_round(make_group: Callable) -> None:
    group = make_group(list(SCORES.values()))
    first = FirstRound()(*group, None, random.Random(4))
    assert first == Tournament()(*group, None, random.Random(4))[:4]
    assert len({name for pair in first for name in (pair.chosen, pair.rejected)}) == 8


def test_first_round_leaves_the_odd_one_out_and_skips_ties(make_group: Callable) -> None:
    rng = random.Random(0)
    assert len(FirstRound()(*make_group([1.0, 2.0, 3.0, 4.0, 5.0]), None, rng)) == 2
    assert FirstRound()(*make_group([1.0, 1.0]), None, rng) == []
    assert FirstRound(min_margin=1.0)(*make_group([1.0, 2.0]), None, rng) == []
    assert FirstRound()(*make_group([1.0]), None, rng) == []


@pytest.mark.parametrize("rule", [FirstRound(), Tournament()])
def test_the_judge_labels_instead_of_the_scores(
    rule: FirstRound | Tournament, make_group: Callable
) -> None:
    """P(0 > 1) = .8 against scores that say 1."""
    (pair,) = rule(*make_group([0.0, 9.0]), [[0.5, 0.8], [0.2, 0.5]], random.Random(0))
    assert (pair.chosen, pair.rejected) == ("s0", "s1")
    assert pair.margin == pytest.approx(1.386294, abs=1e-6)


@pytest.mark.parametrize("rule", [FirstRound(), Tournament()])
def test_ties_equal_tokens_and_failures_make_no_pair(
    rule: FirstRound | Tournament, make_group: Callable
) -> None:
    rng = random.Random(0)
    assert rule(*make_group([0.0, 9.0]), [[0.5, 0.5], [0.5, 0.5]], rng) == []
    assert rule(*make_group([0.0, 9.0], tokens=[(1,), (1,)]), None, rng) == []
    assert rule(*make_group([None, 9.0]), None, rng) == []
    assert rule(*make_group([0.0, 9.0], cut=[1]), None, rng) == []
