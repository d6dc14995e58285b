import random

import pytest

from align.training.plan import Shape, micro_batch, plan_epoch, plan_steps

GROUPS = [[0, 1], [2, 3, 4], [5], [6, 7], [8, 9], [10, 11, 12]]


def test_plan_epoch_whole_keeps_groups_together() -> None:
    for seed in range(20):
        steps = plan_epoch(GROUPS, 4, random.Random(seed), whole=True)
        assert sorted(item for step in steps for item in step) == list(range(13))
        assert max(len(step) for step in steps) <= 4
        for group in GROUPS:
            assert sum(bool(set(group) & set(step)) for step in steps) == 1


def test_plan_epoch_whole_fills_every_step_where_sizes_divide() -> None:
    groups = [[2 * i, 2 * i + 1] for i in range(10)]
    assert [len(step) for step in plan_epoch(groups, 4, random.Random(0), whole=True)] == [4] * 5


def test_plan_epoch_items_only_last_step_is_smaller() -> None:
    steps = plan_epoch(GROUPS, 4, random.Random(0), whole=False)
    assert [len(step) for step in steps] == [4, 4, 4, 1]


def test_plan_epoch_divides_a_group_larger_than_a_step() -> None:
    steps = plan_epoch([list(range(5))], 2, random.Random(0), whole=True)
    assert sorted(map(tuple, steps)) == [(0, 1), (2, 3), (4,)]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "count"), [(1.0, -1, 4), (2.5, -1, 10), (0.5, -1, 2), (1.0, 9, 9)]
)
def test_plan_steps_counts_epochs_and_steps(epochs: float, max_steps: int, count: int) -> None:
    groups = [[i] for i in range(8)]
    steps = plan_steps(groups, 2, seed=1, whole=True, epochs=epochs, max_steps=max_steps)
    assert len(steps) == count


def test_plan_steps_reshuffles_epochs_and_depends_on_the_seed_alone() -> None:
    groups = [[i] for i in range(8)]
    steps = plan_steps(groups, 8, seed=1, whole=True, epochs=2)
    assert steps[0] != steps[1]
    assert steps == plan_steps(groups, 8, seed=1, whole=True, epochs=2)
    assert steps != plan_steps(groups, 8, seed=2, whole=True, epochs=2)


def test_micro_batch_cuts_a_step_without_loss_or_overlap() -> None:
    """Seven items over 2 ranks x 2 forwards x 2 items: the last forward has one."""
    shape = Shape(micro=2, accumulation=2, world=2)
    parts = [micro_batch(range(7), shape, a, rank) for a in range(2) for rank in range(2)]
    assert parts == [[0, 1], [2, 3], [4, 5], [6]]
    assert micro_batch(range(3), shape, 1, 1) == []
