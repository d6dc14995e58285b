"""The small rewards: regular expression, length, lexicon, Python function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from align.errors import DataError, RecipeError, SetupError
from align.records import Prompt, Sample
from align.rewards import overdue
from align.rewards.answer_clusters import AnswerClusters
from align.rewards.length import Length
from align.rewards.lexicon import Lexicon
from align.rewards.protocol import Group
from align.rewards.python_function import PythonFunction
from align.rewards.regex import Regex
from align.rewards.trust import count_time_outs, errors_of
from tests.rewards.builders import group_of, sample_of, values_of


def test_regex_searches_or_matches_all() -> None:
    group = group_of("?", None, "<think>a\nb</think> 4", "x <think></think>", "4")
    search = Regex(pattern="<think>.*</think>", right=0.5, wrong=-0.5)
    assert values_of(search.open().score([group])) == [[0.5, 0.5, -0.5]]
    assert values_of(replace(search, full=True).open().score([group])) == [[-0.5, -0.5, -0.5]]
    with pytest.raises(RecipeError, match="pattern is not a regular"):
        Regex(pattern="[").open()


def test_length_counts_policy_tokens_or_characters() -> None:
    group = group_of("?", None, "abcd", "")
    with_tool = replace(group.samples[0], loss_mask=(1, 0, 0, 1))
    group = Group(group.prompt, (with_tool, group.samples[1]))
    assert values_of(Length(slope=-0.5).open().score([group])) == [[-1.0, 0.0]]
    assert values_of(Length(unit="characters").open().score([group])) == [[4.0, 0.0]]


def test_lexicon_sums_clips_and_ignores_case(tmp_path: Path) -> None:
    file = tmp_path / "words.tsv"
    file.write_text("token\tvalence\ngood\t1.9\nBad\t-2.5\ndon't\t-0.25\n:)\t2.0\n")
    group = group_of("?", None, "Good, good dog!", "bad", "Don't be good :)", "good " * 9, "")
    values = values_of(Lexicon(path=str(file)).open().score([group]))[0]
    assert values == pytest.approx([3.8, -2.5, 1.65, 10.0, 0.0])


def test_vader_lexicon_prefers_a_happy_story(shared: Path) -> None:
    """happy 2.7, love 3.2, sad -2.1, killed -3.5 in the VADER lexicon."""
    lexicon = Lexicon(path=str(shared / "data" / "vader_lexicon.tsv")).open()
    group = group_of("?", None, "Lily was happy. Love!", "The dog was sad and killed.")
    assert values_of(lexicon.score([group]))[0] == pytest.approx([5.9, -5.6])


@pytest.mark.parametrize(
    ("content", "place"),
    [("good 1.9\n", ":1: unknown header"), ("token\tvalence\ngood\tfine\n", ":2: 'fine' is not")],
)
def test_lexicon_names_the_broken_line(tmp_path: Path, content: str, place: str) -> None:
    file = tmp_path / "words.tsv"
    file.write_text(content)
    with pytest.raises(DataError, match=place):
        Lexicon(path=str(file)).open()
    with pytest.raises(DataError, match="no such lexicon"):
        Lexicon(path=str(tmp_path / "absent.tsv")).open()


def count_vowels(prompt: Prompt, samples: Sequence[Sample]) -> list[float | None]:
    """None for an empty text, NaN for `nan`, an error for the prompt `bad`, one value too few for
    `short`, an exit for `over`."""
    if prompt.messages[0]["content"] == "bad":
        raise KeyError("no such column")
    if prompt.messages[0]["content"] == "over":
        raise SystemExit(3)
    values: list[float | None] = [sum(s.text.count(v) for v in "aeiou") or None for s in samples]
    if prompt.messages[0]["content"] == "short":
        return values[1:]
    return [math.nan if s.text == "nan" else v for s, v in zip(samples, values, strict=True)]


def test_python_function_scores_groups_and_its_failures_stay_with_their_prompt() -> None:
    scorer = PythonFunction(function="tests.rewards.test_rules.count_vowels").open()
    prompts = ("fine", "bad", "short", "over")
    groups = [group_of(q, None, "banana", "nan", "xyz") for q in prompts]
    scores = scorer.score(groups)
    assert values_of(scores) == [[3.0, None, None], [None] * 3, [None] * 3, [None] * 3]
    assert str(scores[3][0].error).endswith("count_vowels raised SystemExit: 3")
    assert [str(score.error).partition("count_vowels ")[2] for score in scores[0]] == [
        "",
        "returned nan",
        "returned None",
    ]
    assert "raised KeyError: 'no such column'" in str(scores[1][0].error)
    assert "returned 2 values for 3 samples" in str(scores[2][0].error)


def test_python_function_with_a_timeout_fails_alone() -> None:
    """Two prompts of three are scored by killable processes; the one that hangs is a time-out."""
    prompts = [Prompt.of(question, meta={"unit": [1]}) for question in "abc"]
    texts = (("1", "22"), ("", "4"), ("333",))
    groups = [
        Group(p, tuple(sample_of(p, i, text) for i, text in enumerate(said)))
        for p, said in zip(prompts, texts, strict=True)
    ]
    name = "tests.rewards.hanging.measure_or_hang"
    scorer = PythonFunction(function=name, timeout=0.5, workers=1).open()
    scores = scorer.score(groups)
    scorer.close()
    assert values_of(scores) == [[1.0, 2.0], [None, None], [3.0]]
    assert count_time_outs(errors_of(scores[1])) == 2
    assert scores[1][0].error == f"{name} stopped after 0.5 s of processor time"


def test_pattern_that_does_not_end_fails_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """`(a|aa)+$` tries every way to cut 60 letters, which no machine has the time for."""
    monkeypatch.setattr(overdue, "SECONDS", 0.3)
    group = group_of("?", None, "a" * 60 + "!", "aaa")
    scores = Regex(pattern="^(a|aa)+$").open().score([group])
    assert values_of(scores) == [[None, 1.0]]
    assert count_time_outs(errors_of(scores[0][:1])) == 1
    clusters = AnswerClusters(extract="^(a|aa)+$").open().score([group])[0]
    assert [score.parts["parsed"] for score in clusters] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("count", "is not a dotted name"),
        ("nowhere.at.all", "cannot import nowhere.at"),
        ("math.absent", "math has no function 'absent'"),
    ],
)
def test_missing_function_is_a_setup_error(name: str, cause: str) -> None:
    with pytest.raises(SetupError, match=cause):
        PythonFunction(function=name).open()
