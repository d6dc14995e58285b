import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.training.forwards import Extent, Schedule, cut_by_size, cut_by_tokens
from align.training.plan import Shape

PROMPTS = ["a", "a", "b", "c", "c", "c", "d"]
LENGTHS = {"a": 10, "b": 4, "c": 6, "d": 3}


def groups(items: Sequence[int]) -> Extent:
    """A line a prompt: its length plus one place an item."""
    sizes = {name: LENGTHS[name] for name in dict.fromkeys(PROMPTS[item] for item in items)}
    for item in items:
        sizes[PROMPTS[item]] += 1
    return Extent(len(sizes), max(sizes.values()), len(items) > len(sizes))


def rows(items: Sequence[int]) -> Extent:
    """A line an item."""
    return Extent(len(items), max(LENGTHS[PROMPTS[item]] + 1 for item in items), False)


def test_cut_by_size_keeps_the_order_of_the_step() -> None:
    schedule = cut_by_size([[3, 1, 2, 0, 4], [5]], Shape(1, 2, 2))
    assert [list(map(list, step)) for step in schedule.steps] == [
        [[3], [1], [2], [0]],
        [[5], [], [], []],
    ]
    assert (schedule.accumulation, schedule.world) == (2, 2)


def test_step_of_one_rank_is_filled_to_the_budget_longest_first() -> None:
    """Lines of a 12, c 9, b 5, d 4; a and c share prompts (2 lines of 12 = 24), b and d do not
    (2 lines of 5 = 10).
    """
    schedule = cut_by_tokens([range(7)], PROMPTS, groups, budget=24, world=1)
    assert schedule.steps == [[(0, 1, 3, 4, 5), (2, 6)]]
    schedule = cut_by_tokens([range(7)], PROMPTS, groups, budget=23, world=1)
    assert schedule.steps == [[(0, 1), (2, 6), (3, 4, 5)]]


def test_every_step_has_the_forwards_of_the_fullest() -> None:
    schedule = cut_by_tokens([[0, 1, 3, 4, 5], [6]], PROMPTS, groups, budget=12, world=1)
    assert schedule.steps == [[(0, 1), (3, 4, 5)], [(6,), ()]]
    assert schedule.accumulation == 2


def test_prompt_that_would_leave_a_rank_idle_is_divided() -> None:
    """One prompt of three items (9 places) for two ranks: one of them and two of them."""
    schedule = cut_by_tokens([[3, 4, 5]], PROMPTS, groups, budget=100, world=2)
    assert sorted(map(sorted, schedule.steps[0])) == [[3], [4, 5]]


def test_item_larger_than_the_budget_has_a_forward_of_its_own() -> None:
    schedule = cut_by_tokens([range(7)], PROMPTS, rows, budget=8, world=1)
    assert [0] in map(list, schedule.steps[0]) and [1] in map(list, schedule.steps[0])
    assert all(rows(items).tokens <= 8 or len(items) == 1 for items in schedule.steps[0] if items)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 80))
def test_schedule_loses_and_doubles_nothing(seed: int, world: int, budget: int) -> None:
    """Whatever the step, ranks and budget: every item once in its own step, the same number of
    forwards everywhere, each within the budget or a single item; and the same again.
    """
    rng = random.Random(seed)
    steps = [rng.sample(range(7), rng.randint(1, 7)) for _ in range(rng.randint(1, 3))]
    measure = rng.choice([groups, rows])
    schedule = cut_by_tokens(steps, PROMPTS, measure, budget, world)
    for step, forwards in zip(steps, schedule.steps, strict=True):
        assert sorted(item for items in forwards for item in items) == sorted(step)
        assert len(forwards) == schedule.accumulation * world
        for items in forwards:
            assert not items or len(items) == 1 or measure(items).tokens <= budget
    assert schedule == cut_by_tokens(steps, PROMPTS, measure, budget, world)


def test_ranks_of_a_forward_hold_lines_of_similar_length() -> None:
    """Sixteen single lines of 1 to 16 places over two ranks: in every forward the longer rank
    computes at most a third more than the other.
    """
    names = [str(number) for number in range(16)]

    def measure(items: Sequence[int]) -> Extent:
        return Extent(len(items), max(items) + 1, False)

    schedule = cut_by_tokens([range(16)], names, measure, budget=48, world=2)
    for forward in range(schedule.accumulation):
        one, other = (measure(items).tokens for items in schedule.steps[0][2 * forward :][:2])
        assert max(one, other) <= 4 / 3 * min(one, other)


@pytest.mark.parametrize("steps", [[], [[0]]])
def test_schedule_of_nothing_and_of_one(steps: list[list[int]]) -> None:
    schedule = cut_by_tokens(steps, PROMPTS, rows, budget=8, world=1)
    assert schedule == Schedule([[(0,)]] if steps else [], 1)
    assert schedule.accumulation == 1
