"""Self-consistency: who wins, ties, and samples that do not answer."""

from __future__ import annotations

import pytest

from align.ops.votes import vote


@pytest.mark.parametrize(
    ("answers", "right", "weights", "found"),
    [
        (["4", "5", "5"], [True, False, False], None, 0.0),
        (["4", "4", "5"], [True, True, False], None, 1.0),
        (["4", "5", "5"], [True, False, False], [0.9, 0.2, 0.3], 1.0),
        (["4", "5"], [True, False], None, 0.5),
        ([None, None, "4"], [False, False, True], None, 1.0),
        ([None], [False], None, 0.0),
    ],
)
def test_vote(
    answers: list[str | None], right: list[bool], weights: list[float] | None, found: float
) -> None:
    assert vote(answers, right, weights) == found
