"""Numbers in texts and how near they come to the answer."""

from __future__ import annotations

from fractions import Fraction

import pytest

from align.errors import RecipeError
from align.rewards.numeric import Numeric, last_boxed, last_number
from tests.rewards.builders import group_of, values_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It costs $1,200.50.", Fraction("1200.5")),
        ("1 + 1 = 2, so -3", Fraction(-3)),
        ("one half is 1/2", Fraction(1, 2)),
        ("about 6.5e3", Fraction(6500)),
        ("20%", Fraction(20)),
        ("4 is right, 1/0 is not", Fraction(4)),
        (".5", Fraction(1, 2)),
        ("1,2", Fraction(2)),
        ("none, at all.", None),
    ],
)
def test_last_number(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


def test_last_boxed_counts_braces() -> None:
    assert last_boxed(r"\boxed{1} and \boxed{\frac{1}{2}} ok") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{1") is None and last_boxed("1") is None


def test_tolerances_are_absolute_or_relative_whichever_allows_more() -> None:
    """Reference 200: absolute 1 allows 199 to 201, relative .01 allows 198 to 202, bounds
    included."""
    group = group_of("?", "200", "199", "198", "197.9", "202", "200", "no number")
    assert values_of(Numeric().open().score([group])) == [[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]]
    absolute = Numeric(absolute=1.0, wrong=-1.0).open().score([group])
    assert values_of(absolute) == [[1.0, -1.0, -1.0, -1.0, 1.0, -1.0]]
    both = Numeric(absolute=1.0, relative=0.01).open().score([group])
    assert values_of(both) == [[1.0, 1.0, 0.0, 1.0, 1.0, 0.0]]
    assert [score.parts["parsed"] for score in both[0]] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_where_the_number_is_looked_for() -> None:
    group = group_of("?", ["4", 5], r"\boxed{4} or 7", "answer: 5 of 9", "7")
    assert values_of(Numeric(find="boxed").open().score([group])) == [[1.0, 0.0, 0.0]]
    pattern = Numeric(find=r"answer: (.*?) ").open()
    assert values_of(pattern.score([group])) == [[0.0, 1.0, 0.0]]
    with pytest.raises(RecipeError, match="find is not a regular"):
        Numeric(find="(").open()
    missing = Numeric().open().score([group_of("?", "four", "4")])[0][0]
    assert missing.value is None and "has no number as reference answer" in str(missing.error)
