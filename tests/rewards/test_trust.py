"""Measurements behind `align doctor --reward`, on values and rewards whose answers are known."""

from __future__ import annotations

import pytest

from align.records import Prompt, Score
from align.registry import build
from align.rewards import trust
from align.rewards.labelled import Writer, rewrite
from align.rewards.process import WorkerPool
from tests.rewards.builders import group_of


def test_change_is_in_standard_deviations_and_counts_new_failures() -> None:
    """Values 0 and 4 have the standard deviation 2: moves of 1 and 0 are 0.5 and 0, mean 0.25."""
    change = trust.compare([0.0, 4.0, None, 1.0], [1.0, 4.0, None, None])
    assert trust.spread_of([0.0, 4.0]) == 2.0
    assert (change.compared, change.failures) == (2, 1)
    assert trust.compare([0.0, 4.0], [1.0, 4.0]) == trust.Change(0.5, 0.25, 2, 0)
    assert trust.compare([3.0, 3.0], [3.0, 3.5]).largest == 0.5, "no spread: in plain units"


def test_gaps_are_those_of_pairs_with_two_values() -> None:
    assert trust.gaps_of([1.0, 0.5, None, 2.0, 0.0, 3.0]) == [0.5, -3.0]


def test_deadlines_of_the_real_pool_are_counted_as_such() -> None:
    """The wording of both deadlines, from the pool itself; an exception is none."""
    pool = WorkerPool("time:sleep", workers=1, seconds=0.05)
    late = pool.map([60])[0].error
    pool.close()
    assert late is not None
    errors = trust.errors_of([Score("a", None, error=late), Score("b", 1.0)])
    assert trust.count_time_outs(errors) == 1
    spent = {"math_verify: stopped after 5 s of processor time": 2, "raised ValueError": 1}
    assert trust.count_time_outs(spent) == 2


def test_copies_keep_prompt_and_place_and_change_the_text() -> None:
    groups = [group_of("p", None, "a", "bb")]
    (spaced,) = rewrite(groups, Writer(), tail=" ")
    assert [sample.text for sample in spaced.samples] == ["a ", "bb "]
    assert [sample.completion_ids for sample in spaced.samples] == [(97, 32), (98, 98, 32)]
    (cut,) = rewrite(groups, Writer(), finished=False)
    assert [sample.finish for sample in cut.samples] == ["length", "length"]


def test_a_reward_of_length_is_read_to_both_ends() -> None:
    """Every completion is longer than 16,000 characters in the end, and both sides still differ."""
    scorer = build("reward", {"name": "length", "unit": "characters"}).open()
    ends = trust.read_ends(scorer, Prompt.of("p"), ("a word", "another"), Writer())
    assert (ends.blind_to_end, ends.blind_to_start, ends.error) == (None, None, None)
    assert ends.longest is not None and ends.longest > 16_000


def test_a_clipped_length_goes_blind_where_it_is_clipped() -> None:
    """At 200 characters the sides differ, at 1,000 the limit of 500 hides it."""
    spec = {"name": "tests.commands.planted.Clipped", "limit": 500}
    scorer = build("reward", spec).open()
    ends = trust.read_ends(scorer, Prompt.of("p"), ("a word", "another"), Writer())
    assert (ends.blind_to_end, ends.blind_to_start) == (1_000, 1_000)


@pytest.mark.parametrize("size", [1, 3])
def test_reversal_and_single_calls_give_the_values_back_in_order(size: int) -> None:
    scorer = build("reward", {"name": "length", "unit": "characters"}).open()
    groups = [group_of(f"p{i}", None, *("x" * (i + j + 1) for j in range(size))) for i in range(3)]
    expected = trust.values_of(trust.score(scorer, groups))
    assert trust.in_reverse(scorer, groups) == expected
    assert trust.one_by_one(scorer, groups) == expected
    assert trust.beside_a_long_one(scorer, groups, Writer()) == expected
