"""Exact match: extraction, several accepted answers, missing answers; GSM8K as people wrote it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from align.errors import RecipeError
from align.rewards.exact_match import ExactMatch
from tests.rewards.builders import group_of, values_of


def test_text_is_compared_without_surrounding_space() -> None:
    group = group_of("1+2=", "3", "3", " 3\n", "4", "")
    assert values_of(ExactMatch().open().score([group])) == [[1.0, 1.0, 0.0, 0.0]]
    assert values_of(ExactMatch(strip=False).open().score([group])) == [[1.0, 0.0, 0.0, 0.0]]


def test_last_extracted_match_counts_and_a_text_without_one_is_wrong_and_counted() -> None:
    group = group_of("?", 7, "#### 6 no, #### 7", "#### 7 no, #### 6", "7")
    reward = ExactMatch(extract=r"#### (\d+)", right=2.0, wrong=-1.0)
    scores = reward.open().score([group])[0]
    assert [score.value for score in scores] == [2.0, -1.0, -1.0]
    assert [score.parts["parsed"] for score in scores] == [1.0, 1.0, 0.0]


def test_any_of_several_answers_is_right() -> None:
    assert values_of(ExactMatch().open().score([group_of("?", ["a", "b"], "b", "c")])) == [[1, 0]]


def test_prompt_without_answer_fails() -> None:
    score = ExactMatch().open().score([group_of("?", None, "b")])[0][0]
    assert score.value is None and "no reference answer" in str(score.error)


def test_wrong_pattern_is_a_recipe_error_that_names_the_key() -> None:
    with pytest.raises(RecipeError, match=r"extract is not a regular expression"):
        ExactMatch(extract="(").open()


def test_gsm8k_solutions_match_their_final_answers(shared: Path) -> None:
    """Both ways of naming the answer: the column `final`, and the solution's own last line."""
    with gzip.open(shared / "data" / "gsm8k.dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    by_column = ExactMatch(extract=r"#### (.*)", remove=",").open()
    by_solution = ExactMatch(extract=r"#### (.*)", extract_answer=r"#### (.*)", remove=",").open()
    wrong = "so it is\n#### 123456789"
    columns = [group_of(row["question"], row["final"], row["answer"], wrong) for row in rows]
    solutions = [group_of(row["question"], row["answer"], row["answer"], wrong) for row in rows]
    assert len(rows) == 434
    assert values_of(by_column.score(columns)) == [[1.0, 0.0]] * 434
    assert values_of(by_solution.score(solutions)) == [[1.0, 0.0]] * 434
