"""`random_calculation`: exact arithmetic on random expressions (RandomCalculation, ALGORITHMS
12.9).

Operands are integers from 0 to 100 and fractions, squares and cubes of them; expressions grow
recursively to a chosen number of operations. Values are exact rationals. Deviation: `x * y` and `y
* x` count as one problem.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from align.data.builtin.partition import SHARES, share_of, uniform
from align.errors import DataError
from align.records import derive_seed

Operator = Literal["+", "-", "*", "/"]
Operand = Literal["integer", "fraction", "square", "cube"]
LARGEST = 10**12
"""No value on the way may exceed it in size."""
_PATIENCE = 20_000
"""Draws in a row without a new problem of the split before giving up."""
_NUMBER = re.compile(
    r"([+-]?\d{1,400}(?:\.\d{0,400})?|[+-]?\.\d{1,400})(?:e([+-]?\d{1,2}))?", re.IGNORECASE
)
_RATIO = re.compile(r"([+-]?\d{1,400})\s*/\s*(\d{1,400})")


@dataclass(frozen=True)
class Expression:
    """An expression, its exact value, and its form for comparison."""

    text: str
    value: Fraction
    canonical: str
    """The text with the sides of `+` and `*` in a fixed order."""


@dataclass(frozen=True)
class RandomCalculation:
    """Distinct problems with exact answers. A problem's split depends on its canonical text
    alone.
    """

    splits: ClassVar[tuple[str, ...]] = tuple(SHARES)

    steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Operations in an expression."""
    operators: Annotated[tuple[Operator, ...], Field(min_length=1)] = ("+", "-", "*", "/")
    operands: Annotated[tuple[Operand, ...], Field(min_length=1)] = (
        "integer",
        "fraction",
        "square",
        "cube",
    )
    largest: Annotated[int, Field(ge=1, le=100)] = 100
    """Integers are drawn from 0 to this."""
    count: Annotated[int, Field(ge=1)] = 1000
    """Rows of the split."""
    prefix: str = "Calculate exactly: "
    """Stands before each expression."""

    def rows(self, split: str, seed: int) -> Iterator[dict[str, object]]:
        """Rows with `prompt`, `completion`, the equal `answer` (an integer or `a/b` in lowest
        terms) and `steps`.

        Raises `DataError` for an unknown split, or where the options leave too few distinct
        problems.
        """
        begin, end = share_of(split)
        return self._draw(split, seed, begin, end)

    def _draw(self, split: str, seed: int, begin: float, end: float) -> Iterator[dict[str, object]]:
        rng = random.Random(derive_seed(seed, "random_calculation", split, self.steps))
        seen: set[str] = set()
        misses = 0
        while len(seen) < self.count:
            problem = self._grow(rng, self.steps)
            is_new = problem is not None and problem.canonical not in seen
            if problem is None or not is_new or not begin <= uniform(problem.canonical) < end:
                misses += 1
                if misses > _PATIENCE:
                    raise DataError(
                        f"random_calculation found only {len(seen)} distinct problems in the "
                        f"split {split!r} with "
                        f"these options; lower count {self.count}, or allow more steps, operators "
                        "or operands"
                    )
                continue
            misses = 0
            seen.add(problem.canonical)
            answer = str(problem.value)
            yield {
                "prompt": f"{self.prefix}{_bare(problem.text)} = ",
                "completion": answer,
                "answer": answer,
                "steps": self.steps,
            }

    def _grow(self, rng: random.Random, steps: int) -> Expression | None:
        """An expression of `steps` operations; None where it divides by zero or a value grows too
        large.
        """
        if steps == 0:
            return _operand(rng.choice(self.operands), rng, self.largest)
        left_steps = rng.randrange(steps)
        left, right = self._grow(rng, left_steps), self._grow(rng, steps - 1 - left_steps)
        if left is None or right is None:
            return None
        return combine(left, rng.choice(self.operators), right)


def combine(left: Expression, operator: Operator, right: Expression) -> Expression | None:
    """`(left operator right)`, or None for a division by zero or a value of more than 1e12 in
    size.
    """
    match operator:
        case "+":
            value = left.value + right.value
        case "-":
            value = left.value - right.value
        case "*":
            value = left.value * right.value
        case "/":
            if right.value == 0:
                return None
            value = left.value / right.value
    if abs(value) > LARGEST:
        return None
    sides = [left.canonical, right.canonical]
    if operator in "+*":
        sides.sort()
    text = f"({left.text} {operator} {right.text})"
    return Expression(text, value, f"({sides[0]} {operator} {sides[1]})")


def graded(answer: str | Fraction | float, reference: str | Fraction | float) -> float:
    """How close an answer is, in [0, 1]: `1 - .5 min(|a-b|, 1) - .5 min(|a-b| / (|b| + 1e-6), 1)`
    (12.9).

    Text may be an integer, a decimal or `a/b`; an answer that is none of them scores 0. Raises
    `DataError` where the reference cannot be read. `graded("10.5", "10") == 0.725` (to 1e-6).
    """
    b = parse_number(reference)
    if b is None:
        raise DataError(f"the reference answer {reference!r} is not a number")
    a = parse_number(answer)
    if a is None:
        return 0.0
    distance = abs(a - b)
    relative = distance / (abs(b) + Fraction(1, 1_000_000))
    return float(1 - min(distance, Fraction(1)) / 2 - min(relative, Fraction(1)) / 2)


def parse_number(value: str | Fraction | float) -> Fraction | None:
    """The exact value of a number or of text that is one (surrounding space and a full stop aside),
    else None.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, (int, float)):
        return Fraction(value) if abs(value) < float("inf") else None  # NaN compares false
    text = value.strip().removesuffix(".")
    if ratio := _RATIO.fullmatch(text):
        return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None
    # Digits and exponents are bounded: Fraction("1e999999999") would fill the memory.
    if number := _NUMBER.fullmatch(text):
        return Fraction(number[1]) * Fraction(10) ** int(number[2] or 0)
    return None


def _operand(kind: Operand, rng: random.Random, largest: int) -> Expression:
    number = rng.randint(0, largest)
    match kind:
        case "integer":
            return Expression(str(number), Fraction(number), str(number))
        case "fraction":
            below = rng.randint(1, largest)
            text = f"({number}/{below})"
            return Expression(text, Fraction(number, below), text)
        case "square":
            return Expression(f"{number}^2", Fraction(number**2), f"{number}^2")
        case "cube":
            return Expression(f"{number}^3", Fraction(number**3), f"{number}^3")


def _bare(text: str) -> str:
    """The text without the parentheses around all of it."""
    return text[1:-1]
