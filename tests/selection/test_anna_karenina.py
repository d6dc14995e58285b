"""ALGORITHMS 7.5: one success, the failures."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from align.selection.anna_karenina import AnnaKarenina

VALUES = [-1.0, 1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (AnnaKarenina(), [0, 1, 2, 4]),
        (AnnaKarenina(stop_at_first_positive=True), [0, 1]),
        (AnnaKarenina(max_neg_per_prompt=2), [0, 1, 2]),
        (AnnaKarenina(max_pos_per_prompt=None), [0, 1, 2, 3, 4]),
        (AnnaKarenina(max_pos_per_prompt=0), [0, 2, 4]),
        (AnnaKarenina(max_pos_per_prompt=0, stop_at_first_positive=True), [0]),
    ],
)
def test_which_samples_stay(rule: AnnaKarenina, kept: list[int], make_group: Callable) -> None:
    assert rule(*make_group(VALUES), random.Random(0)) == kept


def test_zero_is_negative_unless_the_threshold_says_otherwise(make_group: Callable) -> None:
    group = make_group([0.0, 1.0, 1.0])
    assert AnnaKarenina()(*group, random.Random(0)) == [0, 1]
    assert AnnaKarenina(threshold=-0.5)(*group, random.Random(0)) == [0]


def test_failures_and_truncated_samples_are_left_out(make_group: Callable) -> None:
    group = make_group([None, -1.0, 1.0], cut=[1])
    assert AnnaKarenina()(*group, random.Random(0)) == [2]
    assert AnnaKarenina(truncated="keep")(*group, random.Random(0)) == [1, 2]


def test_truncated_samples_can_be_negatives_whatever_their_score(make_group: Callable) -> None:
    """The right answer at 0 was cut: the one positive that stays is the next."""
    rule = AnnaKarenina(truncated="negative")
    assert rule(*make_group([1.0, 1.0, 1.0], cut=[0]), random.Random(0)) == [0, 1]
    explained = rule.explain(*make_group([1.0], cut=[0]), random.Random(0))
    assert explained.counts == {"all_right": 0, "all_wrong": 1, "positives": 0, "negatives": 1}


@pytest.mark.parametrize(
    ("values", "options", "kept"),
    [
        ([1.0, 1.0], {"all_right": "drop"}, []),
        ([1.0, 1.0], {"all_wrong": "drop"}, [0]),
        ([-1.0, -1.0], {"all_wrong": "drop"}, []),
        ([-1.0, -1.0], {"all_right": "drop"}, [0, 1]),
        ([-1.0, 1.0], {"all_right": "drop", "all_wrong": "drop"}, [0, 1]),
        ([None, 1.0], {"all_right": "drop"}, []),
        ([None, None], {"all_right": "drop", "all_wrong": "drop"}, []),
    ],
)
def test_prompts_that_are_all_one_kind_are_dropped_by_name(
    values: list[float | None], options: dict[str, str], kept: list[int], make_group: Callable
) -> None:
    assert AnnaKarenina(**options)(*make_group(values), random.Random(0)) == kept  # type: ignore[arg-type]


def test_what_was_kept_is_counted(make_group: Callable) -> None:
    explained = AnnaKarenina().explain(*make_group(VALUES), random.Random(0))
    assert explained.counts == {"all_right": 0, "all_wrong": 0, "positives": 1, "negatives": 3}


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_neg_per_prompt must be at least 0"):
        AnnaKarenina(max_neg_per_prompt=-1)
