"""The math verifier against real solutions, hanging comparisons and broken golden cases."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from align.errors import SetupError
from align.rewards import math_verify
from align.rewards.math_verify import MathScorer, MathVerify
from tests.rewards.builders import group_of, values_of


@pytest.fixture(scope="module")
def scorer() -> Iterator[MathScorer]:
    opened = MathVerify(timeout=1.0, workers=2).open()
    yield opened
    opened.close()


def test_gsm8k_solutions_are_right_and_their_neighbours_wrong(
    scorer: MathScorer, shared: Path
) -> None:
    """Each person's solution ends in `#### final`: right against its own final answer, wrong
    against it plus one."""
    with gzip.open(shared / "data" / "gsm8k.dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:120]
    groups = [
        group_of(
            row["question"],
            row["final"],
            row["answer"],
            f"The answer is \\boxed{{{int(row['final'].replace(',', '')) + 1}}}",
        )
        for row in rows
    ]
    assert values_of(scorer.score(groups)) == [[1.0, -1.0]] * 120


def test_equal_expressions_are_right_and_text_without_mathematics_is_wrong_and_counted(
    scorer: MathScorer,
) -> None:
    group = group_of("?", "1/2", r"$\frac{2}{4}$", "0.5", "I do not know.", r"\boxed{2}")
    scores = scorer.score([group])[0]
    assert [score.value for score in scores] == [1.0, 1.0, -1.0, -1.0]
    assert [score.parts["parsed"] for score in scores] == [1.0, 1.0, 0.0, 1.0]


def test_expression_and_list_answers(scorer: MathScorer) -> None:
    groups = [
        group_of("?", "2x+3", "$3+2x$", "$3$"),
        group_of("?", 5, "so x = 5", "so x = 6"),
        group_of("?", ["1", "2"], "it is 2", "it is 3"),
    ]
    assert values_of(scorer.score(groups)) == [[1.0, -1.0]] * 3


def test_comparison_that_never_ends_fails_within_the_deadline_and_the_worker_is_replaced(
    scorer: MathScorer,
) -> None:
    """10^10^10 as an exact integer has ten billion digits; the library's signal handler would never
    run."""
    before = scorer.pool.restarts
    group = group_of("?", "4", "$10^{10^{10}}$", "4", "$9^{9^{9^9}}-9^{9^{9^8}}$", "5")
    start = time.monotonic()
    scores = scorer.score([group])[0]
    assert time.monotonic() - start < 30
    assert [score.value for score in scores] == [None, 1.0, None, -1.0]
    assert all(score.error for score in scores if score.value is None)
    assert scorer.pool.restarts - before <= 2
    assert values_of(scorer.score([group_of("?", "4", "4", "5")])) == [[1.0, -1.0]]


def test_missing_and_unusable_answers_are_failures(scorer: MathScorer) -> None:
    scores = scorer.score([group_of("?", None, "4"), group_of("?", "", "4")])
    assert values_of(scores) == [[None], [None]]
    assert "no reference answer" in str(scores[0][0].error)
    assert "is not mathematics" in str(scores[1][0].error)


def test_result_does_not_depend_on_order_or_batch(scorer: MathScorer) -> None:
    groups = [group_of(f"q{i}", str(i), str(i), str(i + 1), "none", f"${i}.0$") for i in range(6)]
    together = scorer.score(groups)
    assert scorer.score(groups[::-1])[::-1] == together
    assert [scorer.score([group])[0] for group in groups] == together
    shuffled = [replace(group, samples=group.samples[::-1]) for group in groups]
    assert [row[::-1] for row in scorer.score(shuffled)] == together


def test_failing_golden_case_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_verify, "GOLDEN", (("240", "#### 241", True, True),))
    with pytest.raises(SetupError, match=r"golden case .*#### 241.*'right': False"):
        MathVerify(workers=1).open()
