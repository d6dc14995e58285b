"""Built-in data: exact, seeded, distinct, and disjoint between splits whatever the seeds."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import partial

import pytest

from align.data.builtin.addition import Addition
from align.data.builtin.partition import SHARES, uniform, unshuffle_pair
from align.data.builtin.random_calculation import (
    Expression,
    RandomCalculation,
    combine,
    graded,
    parse_number,
)
from align.errors import DataError, InputError
from align.registry import build


def _prompts(data: Addition | RandomCalculation, split: str, seed: int) -> list[str]:
    return [str(row["prompt"]) for row in data.rows(split, seed)]


def test_addition_splits_cover_every_pair_once() -> None:
    """Two digits: 10,000 pairs, 4,000 + 4,000 + 1,000 + 1,000; seeds change the order alone."""
    splits = {split: _prompts(Addition(digits=2), split, 0) for split in SHARES}
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 4000,
        "prompts": 4000,
        "validation": 1000,
        "test": 1000,
    }
    assert len({prompt for rows in splits.values() for prompt in rows}) == 10_000
    again = _prompts(Addition(digits=2), "test", 7)
    assert sorted(again) == sorted(splits["test"]) and again != splits["test"]


def test_addition_rows_are_right_and_padded() -> None:
    rows = list(Addition(count=2000).rows("train", 3))
    for row in rows:
        left, right = re.fullmatch(r"(\d{3})\+(\d{3})=", row["prompt"]).groups()  # pyright: ignore
        assert row["completion"] == row["answer"] == f"{int(left) + int(right):04d}"
    assert len({row["prompt"] for row in rows}) == 2000
    assert rows == list(Addition(count=2000).rows("train", 3))


def test_addition_operands_are_uniform() -> None:
    """First digits of 5,000 left operands: 500 each, standard deviation 21."""
    digits = Counter(prompt[0] for prompt in _prompts(Addition(count=5000), "prompts", 0))
    assert len(digits) == 10 and all(abs(count - 500) < 90 for count in digits.values())


def test_addition_knows_its_size_without_making_rows() -> None:
    """40 % of 10^18 pairs could not be made."""
    assert Addition(digits=9).size("train") == 4 * 10**17
    for data in (Addition(digits=2), Addition(digits=2, count=30)):
        assert data.size("test") == len(_prompts(data, "test", 0))


def test_addition_refuses_what_it_has_not() -> None:
    for refuse in (Addition(digits=1, count=11).size, partial(Addition(1, 11).rows, seed=0)):
        with pytest.raises(DataError, match="has 10 rows in the split 'test', fewer than count 11"):
            refuse("test")
    with pytest.raises(DataError, match="have no split 'dev'"):
        Addition().rows("dev", 0)


def test_unshuffle_pair_is_a_bijection() -> None:
    pairs = {unshuffle_pair(place, 7) for place in range(49)}
    assert pairs == {(a, b) for a in range(7) for b in range(7)}


def _value(text: str) -> Fraction:
    """The expression by Python's own parser, every number an exact fraction."""
    code = re.sub(r"\d+", lambda match: f"F({match[0]})", text.replace("^", "**"))
    code = re.sub(r"\*\*F\((\d+)\)", r"**\1", code)
    return eval(code, {"F": Fraction})


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_calculations_are_exact(steps: int) -> None:
    rows = list(RandomCalculation(steps=steps, count=200, prefix="").rows("train", 0))
    for row in rows:
        text = str(row["prompt"]).removesuffix(" = ")
        assert len(re.findall(r" [-+*/] ", text)) == steps == row["steps"]
        assert Fraction(str(row["answer"])) == _value(text)
        assert abs(_value(text)) <= 10**12


def test_calculations_are_distinct_seeded_and_disjoint() -> None:
    data = RandomCalculation(steps=1, largest=9, operands=("integer",), count=30, prefix="")
    splits = {split: _prompts(data, split, 0) for split in ("train", "prompts")}
    assert splits["train"] == _prompts(data, "train", 0) != _prompts(data, "train", 1)
    assert all(len(set(prompts)) == 30 for prompts in splits.values())
    # Over many seeds the splits come close to exhausting the problems, and still never meet.
    seen = {split: {p for s in range(20) for p in _prompts(data, split, s)} for split in splits}
    assert min(map(len, seen.values())) > 80 and not seen["train"] & seen["prompts"]
    # "3 + 4" and "4 + 3" are one problem.
    sums = {
        split: {frozenset(p.removesuffix(" = ").split(" + ")) for p in prompts if " + " in p}
        for split, prompts in seen.items()
    }
    assert sums["train"] and sums["prompts"] and not sums["train"] & sums["prompts"]


def test_calculations_choose_operators_and_operands() -> None:
    data = RandomCalculation(steps=3, operators=("+", "*"), operands=("square",), count=100)
    text = " ".join(_prompts(data, "test", 0))
    assert " - " not in text and " / " not in text
    assert set(re.findall(r"\d+(\^\d)?", text)) == {"^2"}


def test_calculations_run_out_with_a_remedy() -> None:
    data = RandomCalculation(steps=1, largest=1, operands=("integer",), count=50)
    with pytest.raises(DataError, match=r"distinct problems in the split 'test'.*lower count 50"):
        list(data.rows("test", 0))


def test_combine_rejects_zero_division_and_large_values() -> None:
    def number(value: int) -> Expression:
        return Expression(str(value), Fraction(value), str(value))

    assert combine(number(1), "/", number(0)) is None
    assert combine(number(10**6), "*", number(10**6 + 1)) is None
    made = combine(number(4), "+", number(3))
    assert made is not None
    assert (made.text, made.canonical, made.value) == ("(4 + 3)", "(3 + 4)", 7)
    other = combine(number(4), "-", number(3))
    assert other is not None and other.canonical == "(4 - 3)"


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        (10.5, 10, 0.725),
        (12, 10, 0.4),
        (0, 0.5, 0.250001),
        ("21/2", "10", 0.725),
        (" 10. ", "10", 1.0),
        ("1e1", "10", 1.0),
        ("ten", "10", 0.0),
        ("1/0", "10", 0.0),
        (float("nan"), "10", 0.0),
        ("1e999999999", "10", 0.0),
        ("0", "0", 1.0),
    ],
)
def test_graded(answer: str | float, reference: str | float, expected: float) -> None:
    assert graded(answer, reference) == pytest.approx(expected, abs=1e-6)


def test_graded_refuses_an_unreadable_reference() -> None:
    with pytest.raises(DataError, match="reference answer 'x' is not a number"):
        graded("1", "x")
    assert parse_number("-.5") == Fraction(-1, 2)


def test_uniform_is_uniform() -> None:
    values = [uniform(str(number)) for number in range(4000)]
    assert abs(sum(value < 0.4 for value in values) - 1600) < 130


def test_recipe_options_reach_the_data_sets() -> None:
    assert build("dataset", {"name": "addition", "digits": 2}) == Addition(digits=2)
    made = build("dataset", {"name": "random_calculation", "operators": ["+", "-"], "steps": 2})
    assert made == RandomCalculation(operators=("+", "-"), steps=2)
    with pytest.raises(InputError, match="digits"):
        build("dataset", {"name": "addition", "digits": 0})
