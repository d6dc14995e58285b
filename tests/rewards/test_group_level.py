"""Rewards that see all samples of a prompt: clusters of answers, tool calls."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from align.records import Json
from align.rewards.answer_clusters import AnswerClusters, clusters_of
from align.rewards.protocol import Group
from align.rewards.tool_efficiency import ToolEfficiency, efficiency_of
from tests.rewards.builders import group_of, values_of


def test_clusters_of_the_reference_vector() -> None:
    """ALGORITHMS 12.2: A, A, B, C -> [.5, .5, .25, .25], H = 1.039721."""
    scores = AnswerClusters().open().score([group_of("?", None, "A", "a ", "B", "C")])[0]
    assert [score.value for score in scores] == [0.5, 0.5, 0.25, 0.25]
    assert scores[0].parts == {"entropy": pytest.approx(1.039721, abs=1e-6), "parsed": 1.0}


def test_unreadable_answers_are_clusters_of_their_own() -> None:
    """4, 4, ?, ?: shares .5, .5 and nothing; clusters 2, 1, 1, so H is the vector's again, not
    ln 2."""
    texts = ("so = 4", "= 4.0", "no idea", "= ")
    scorer = AnswerClusters(extract="= *(.*)", equal="number", unparsed=-0.5).open()
    scores = scorer.score([group_of("?", None, *texts)])[0]
    assert [score.value for score in scores] == [0.5, 0.5, -0.5, -0.5]
    assert [score.parts["parsed"] for score in scores] == [1.0, 1.0, 0.0, 0.0]
    assert scores[0].parts["entropy"] == pytest.approx(1.5 * math.log(2))


def test_equal_mathematics_is_one_cluster() -> None:
    scorer = AnswerClusters(equal="math", extract="= (.*)", workers=1).open()
    texts = ("y = 1/2", "y = 0.5", r"y = \frac{2}{4}", "y = x+1", "y = 1 + x", "y = 3")
    scores = scorer.score([group_of("?", None, *texts)])
    scorer.close()
    third = 1 / 3
    assert values_of(scores)[0] == pytest.approx([0.5, 0.5, 0.5, third, third, 1 / 6])


def test_a_cluster_is_what_equals_its_first_answer() -> None:
    same = {("a", "a"), ("b", "b"), ("c", "c"), ("a", "b"), ("b", "c")}
    assert clusters_of(["a", None, "b", "c", "d"], same) == [0, 1, 0, 3, 4]


@pytest.mark.parametrize(
    ("m", "n", "expected"),
    [
        (1, 1, 1.0),
        (2, 1, 0.866025),
        (0, 1, 0.0),
        (1, 2, 0.866025),
        (2, 2, 1.0),
        (4, 2, 0.866025),
        (0, 0, 1.0),
        (1, 0, 0.809017),
        (3, 0, 0.5),
        (3, None, 0.5),
    ],
)
def test_tool_efficiency_of_the_reference_vectors(m: int, n: int | None, expected: float) -> None:
    """ALGORITHMS 12.17, c = 3."""
    assert efficiency_of(m, n, 3.0) == pytest.approx(expected, abs=1e-6)


def with_calls(group: Group, *calls: Json) -> Group:
    samples = zip(group.samples, calls, strict=True)
    return Group(group.prompt, tuple(replace(s, meta={"tool_calls": c}) for s, c in samples))


def test_right_answers_are_worth_their_efficiency_and_wrong_ones_nothing() -> None:
    """The fewest calls of a right answer are 1; the wrong answer's 0 calls do not count."""
    group = with_calls(group_of("?", "4", "4", "4", "5"), 2, ["search"], 0)
    config = ToolEfficiency(of={"name": "exact_match"}, alpha=2.0)
    scores = config.open().score([group])[0]
    assert [score.value for score in scores] == pytest.approx([1.732051, 2.0, 0.0], abs=1e-6)
    assert scores[1].parts == {"exact_match": 1.0, "calls": 1.0, "efficiency": 1.0}
    single = ToolEfficiency(of={"name": "exact_match"}, form="single").open().score([group])[0]
    assert [s.value for s in single] == pytest.approx(
        [math.cos(2 * math.pi / 7), 0.809017, 0.0], abs=1e-6
    )


def test_nobody_right_is_worth_nothing_and_an_unknown_count_fails() -> None:
    config = ToolEfficiency(of={"name": "exact_match"})
    nobody = with_calls(group_of("?", "4", "5", "6"), 1, 0)
    assert values_of(config.open().score([nobody])) == [[0.0, 0.0]]
    scores = config.open().score([group_of("?", "4", "4")])[0]
    assert scores[0].value is None
    assert "Sample.meta has no count of calls as 'tool_calls'" in str(scores[0].error)
    failed = config.open().score([with_calls(group_of("?", None, "4"), 1)])[0][0]
    assert failed.value is None and str(failed.error).startswith("exact_match: ")
