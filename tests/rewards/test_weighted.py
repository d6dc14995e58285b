"""Weighted sums: parts, weight 0, failures, closing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from align.errors import InputError, SetupError
from align.records import Score
from align.rewards.exact_match import ExactMatch
from align.rewards.length import Length
from align.rewards.protocol import Group
from align.rewards.weighted import Weighted
from tests.rewards.builders import group_of


@dataclass(frozen=True)
class Noted:
    """Fails on the text `bad`, writes down that it was closed, gives a span to everything else."""

    closed: list[str] = field(default_factory=list)

    def open(self) -> Noted:
        return self

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        return [
            [
                Score(s.sample_id, None, error="it is bad")
                if s.text == "bad"
                else Score(s.sample_id, 5.0, spans=((0, 1, 4.0),))
                for s in group.samples
            ]
            for group in groups
        ]

    def close(self) -> None:
        self.closed.append("noted")


@dataclass(frozen=True)
class Unopenable:
    def open(self) -> Noted:
        raise SetupError("no model")


def test_value_is_the_weighted_sum_and_parts_keep_each_term_before_weighting() -> None:
    """exact match 1 x 2.0 + length 3 x (-0.1) = 1.7; 0 x 2.0 + 4 x (-0.1) = -0.4."""
    reward = Weighted(
        (
            ("right", 2.0, ExactMatch(extract=".+")),
            ("length", -0.1, Length(unit="characters")),
        )
    )
    scores = reward.open().score([group_of("?", "abc", "abc", "abcd")])[0]
    assert [score.value for score in scores] == pytest.approx([1.7, -0.4])
    assert scores[0].parts == {"right": 1.0, "right/parsed": 1.0, "length": 3.0}


def test_failure_of_a_counted_source_leaves_no_value() -> None:
    sources = (("noted", 1.0, Noted()), ("length", 1.0, Length()))
    scores = Weighted(sources).open().score([group_of("?", None, "bad", "good")])[0]
    assert scores[0].value is None and scores[0].error == "noted: it is bad"
    assert scores[0].parts == {"noted": None, "length": 3.0}
    assert scores[1].value == 9.0 and scores[1].spans == ((0, 1, 4.0),)


def test_source_of_weight_zero_is_reported_but_neither_counts_nor_fails() -> None:
    sources = (("noted", 0.0, Noted()), ("length", 0.5, Length()))
    scores = Weighted(sources).open().score([group_of("?", None, "bad", "good")])[0]
    assert [score.value for score in scores] == [1.5, 2.0]
    assert [score.parts["noted"] for score in scores] == [None, 5.0]
    assert scores[1].spans == ()


def test_sources_are_closed_at_the_end_and_where_another_cannot_open() -> None:
    noted = Noted()
    Weighted((("noted", 1.0, noted),)).open().close()
    assert noted.closed == ["noted"]
    with pytest.raises(SetupError, match="no model"):
        Weighted((("a", 1.0, noted), ("b", 1.0, Unopenable()))).open()
    assert noted.closed == ["noted", "noted"]


def test_equal_labels_and_no_counting_source_are_refused() -> None:
    with pytest.raises(InputError, match='two sources are called "a"'):
        Weighted((("a", 1.0, Length()), ("a", 1.0, Length())))
    with pytest.raises(InputError, match="no source has a weight"):
        Weighted((("a", 0.0, Length()),))


def test_an_error_that_names_its_source_does_not_name_it_twice() -> None:
    """`code` begins its reasons with its name; a label of one's own stands in front of it."""
    group = group_of("p", None, "no program")
    for label, said in (("code", "code: no tests"), ("mine", "mine: code: no tests")):
        reward = Weighted(((label, 1.0, Failing("code: no tests")),))
        score = reward.open().score([group])[0][0]
        assert (score.value, score.error) == (None, said)


@dataclass(frozen=True)
class Failing:
    """Scores nothing, and says why."""

    reason: str

    def open(self) -> Failing:
        return self

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        return [[Score(s.sample_id, None, error=self.reason) for s in g.samples] for g in groups]

    def close(self) -> None:
        pass
