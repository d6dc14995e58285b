"""Best-of-n: order, ties, duplicates, thresholds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from align.selection.best_of_n import BestOfN


def test_keeps_the_best_first(make_group: Callable) -> None:
    group = make_group([0.1, 0.9, 0.5, 0.7])
    assert BestOfN(keep=1)(*group, random.Random(0)) == [1]
    assert BestOfN(keep=3)(*group, random.Random(0)) == [1, 3, 2]
    assert BestOfN(keep=9)(*group, random.Random(0)) == [1, 3, 2, 0]


def test_failures_and_truncated_samples_never_win(make_group: Callable) -> None:
    group = make_group([None, 5.0, 1.0, 0.0], cut=[1])
    assert BestOfN()(*group, random.Random(0)) == [2]
    assert BestOfN(truncated="keep")(*group, random.Random(0)) == [1]
    assert BestOfN()(*make_group([None, None]), random.Random(0)) == []


def test_of_equal_scores_the_first_is_kept(make_group: Callable) -> None:
    """The select stage shuffles a prompt's samples by its seed, so that first means random."""
    group = make_group([0.0, 1.0, 1.0, 1.0])
    assert BestOfN(keep=2)(*group, random.Random(3)) == [1, 2]


def test_equal_completions_count_once(make_group: Callable) -> None:
    group = make_group([0.9, 0.9, 0.5], tokens=[(7, 8), (7, 8), (9,)])
    kept = BestOfN(keep=2)(*group, random.Random(0))
    assert len(kept) == 2 and kept[0] in (0, 1) and kept[1] == 2


def test_threshold_may_leave_nothing(make_group: Callable) -> None:
    """ReST: at least .7."""
    group = make_group([0.7, 0.69, 0.8])
    assert BestOfN(keep=9, min_score=0.7)(*group, random.Random(0)) == [2, 0]
    assert BestOfN(keep=9, min_score=0.9)(*group, random.Random(0)) == []


def test_all_equal_groups_are_kept_or_skipped(make_group: Callable) -> None:
    equal, single = make_group([1.0, 1.0]), make_group([1.0])
    assert len(BestOfN()(*equal, random.Random(0))) == 1
    assert BestOfN(all_equal="skip")(*equal, random.Random(0)) == []
    assert BestOfN(all_equal="skip")(*single, random.Random(0)) == [0]


def test_keep_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="keep must be at least 1"):
        BestOfN(keep=0)
