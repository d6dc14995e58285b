"""What math-verify does inside a killable worker (`align.rewards.process`): one comparison of an
answer and a text.

math-verify's own time limit is a signal handler in Python, which a long C call (a tower of
exponents) never lets run; it is off here, and the pool's deadline holds.
"""

from __future__ import annotations

import logging
import re

from math_verify import parse, verify
from sympy import Basic, MatrixBase

logging.getLogger("math_verify").setLevel(logging.ERROR)

NO_LIMIT = 0
NUMBER = re.compile(r"\s*[-+]?[\d,]*\.?\d+\s*")


def judge(item: dict[str, str]) -> dict[str, bool]:
    r"""`{"answer", "text"}` -> `{"parsed", "right"}`; raises where the reference answer itself
    cannot be parsed.

    `{"answer": "1/2", "text": "so \boxed{0.5}"}` -> `{"parsed": True, "right": True}`
    """
    gold = parse_answer(item["answer"])
    if not gold:
        raise ValueError(f"the reference answer {item['answer']!r} is not mathematics")
    said = parse(item["text"], parsing_timeout=NO_LIMIT)
    if not said:
        return {"parsed": False, "right": False}
    try:
        is_right = verify(gold, said, timeout_seconds=NO_LIMIT, raise_on_error=True)
    except Exception:
        # One of several candidates could not be compared: another may still be right, else it stays
        # a failure.
        is_right = verify(gold, said, timeout_seconds=NO_LIMIT)
        if not is_right:
            raise
    return {"parsed": True, "right": bool(is_right)}


def parse_answer(answer: str) -> list[Basic | MatrixBase | str]:
    """Candidates for a bare reference answer. math-verify reads LaTeX only inside delimiters:
    `x^2+1` alone is nothing to it and `2x+3` alone is 3, so anything but a number or delimited text
    is taken as LaTeX first.
    """
    if NUMBER.fullmatch(answer) or "$" in answer or "\\boxed" in answer:
        return parse(answer, parsing_timeout=NO_LIMIT)
    wrapped = parse(f"${answer}$", parsing_timeout=NO_LIMIT)
    return wrapped or parse(answer, parsing_timeout=NO_LIMIT)
