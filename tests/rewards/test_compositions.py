"""Rewards made of rewards: values, parts, failures, and what a recipe is refused for."""

from __future__ import annotations

import pytest

from align.records import Sample
from align.registry import PluginError, build
from align.rewards.clip import Clip
from align.rewards.gate import Gate
from align.rewards.product import Product
from align.rewards.threshold import Threshold
from align.rewards.total import Total
from align.rewards.whiten import Whiten
from tests.rewards.builders import group_of, values_of

NUMBERS: dict[str, object] = {
    "name": "python",
    "function": "tests.rewards.test_compositions.numbers",
    "label": "n",
}
CHARACTERS: dict[str, object] = {"name": "length", "unit": "characters"}
ASKED: list[str] = []


def numbers(prompt: object, samples: list[Sample]) -> list[float | None]:
    """The number that the text is; None for other texts."""
    ASKED.extend(sample.text for sample in samples)
    return [
        float(s.text) if s.text.lstrip("-").replace(".", "").isdigit() else None for s in samples
    ]


def test_product_multiplies_and_keeps_each_factor() -> None:
    """`-3` has 2 characters: -3 x 2 = -6; `x` is no number."""
    scorer = Product(of=(NUMBERS, CHARACTERS)).open()
    scores = scorer.score([group_of("?", None, "-3", "x")])[0]
    assert (scores[0].value, scores[0].parts) == (-6.0, {"n": -3.0, "length": 2.0})
    assert (scores[1].value, scores[1].parts) == (None, {"n": None, "length": 1.0})
    assert str(scores[1].error).startswith("n: ")


def test_total_is_the_weighted_sum() -> None:
    """2 x 3 - 0.5 x 1 = 5.5."""
    config = Total(of=(NUMBERS | {"weight": 2}, CHARACTERS | {"weight": -0.5}))
    scores = config.open().score([group_of("?", None, "3")])[0]
    assert (scores[0].value, scores[0].parts) == (5.5, {"n": 3.0, "length": 1.0})


def test_gate_asks_what_is_behind_it_only_for_samples_that_pass() -> None:
    """Three characters or more open the gate: `100` passes, `12` does not, `abc` passes and
    fails."""
    ASKED.clear()
    gate = Gate(when=CHARACTERS, then=NUMBERS, at=3, otherwise=-2.0)
    groups = [group_of("?", None, "12"), group_of("??", None, "12", "100", "abc", "250")]
    scores = gate.open().score(groups)
    assert values_of(scores) == [[-2.0], [-2.0, 100.0, None, 250.0]]
    assert ASKED == ["100", "abc", "250"]
    assert scores[1][0].parts == {"length": 2.0}
    assert scores[1][1].parts == {"length": 3.0, "n": 100.0}
    assert scores[1][2].parts == {"length": 3.0, "n": None}
    assert str(scores[1][2].error).startswith("n: ")


def test_format_gate_of_mt_r1_zero() -> None:
    """ALGORITHMS 12.19: a well-formed perfect translation 1 + 1, a malformed one -1 - 2 = -3."""
    spec: dict[str, object] = {
        "name": "gate",
        "add": True,
        "otherwise": -2.0,
        "when": {
            "name": "format_tags",
            "tags": ["think", "translate"],
            "right": 1.0,
            "wrong": -1.0,
        },
        "then": {"name": "bleu", "extract": "<translate>(.*)</translate>"},
    }
    good = "<think>hm</think><translate>the cat sat here</translate>"
    group = group_of("?", "the cat sat here", good, "the cat sat here")
    values = values_of(build("reward", spec).open().score([group]))[0]
    assert values == pytest.approx([2.0, -3.0])


def test_gate_that_cannot_be_judged_fails() -> None:
    scores = Gate(when=NUMBERS, then=CHARACTERS).open().score([group_of("?", None, "x", "1")])[0]
    assert [score.value for score in scores] == [None, 1.0]
    assert str(scores[0].error).startswith("n: ")


def test_clip_and_threshold() -> None:
    group = group_of("?", None, "-3", "0.5", "7", "x")
    assert values_of(Clip(of=NUMBERS, low=-1.0, high=5.0).open().score([group])) == [
        [-1.0, 0.5, 5.0, None]
    ]
    assert values_of(Clip(of=NUMBERS, high=5.0).open().score([group]))[0][0] == -3.0
    scores = Threshold(of=NUMBERS, at=0.5, above=2.0, below=-1.5).open().score([group])[0]
    assert [score.value for score in scores] == [-1.5, 2.0, 2.0, None]
    assert scores[0].parts == {"n": -3.0}


def test_whitening_over_the_group_or_over_all_groups() -> None:
    """Group 1, 3: mean 2, std 1. With 5, 7 beside it: mean 4, std sqrt(5) = 2.236068."""
    groups = [group_of("?", None, "1", "3", "x"), group_of("??", None, "5", "7")]
    assert values_of(Whiten(of=NUMBERS).open().score(groups)) == [[-1.0, 1.0, None], [-1.0, 1.0]]
    first, second = values_of(Whiten(of=NUMBERS, over="shard").open().score(groups))
    assert first[:2] == pytest.approx([-3 / 5**0.5, -1 / 5**0.5])
    assert first[2] is None and second == pytest.approx([1 / 5**0.5, 3 / 5**0.5])
    equal = [group_of("?", None, "0.1", "0.1", "0.1")]
    assert values_of(Whiten(of=NUMBERS).open().score(equal)) == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "clip", "of": {"name": "lengthy"}}, '"lengthy" is not a known reward.*"length"'),
        (
            {"name": "clip", "of": {"name": "length", "slop": 1}},
            "inside `of`: slop is not an option of length; did you mean .slope",
        ),
        ({"name": "clip", "of": {"name": "reward_model"}}, "in another reward needs its path"),
        (
            {"name": "clip", "of": {"name": "length"}, "low": 2, "high": 1},
            "low = 2 is above high = 1",
        ),
        ({"name": "product", "of": [{"name": "length"}, {"name": "length"}]}, "give each a label"),
        (
            {"name": "gate", "when": {"name": "length"}, "then": {"name": "length"}},
            "give one a label",
        ),
        (
            {"name": "clip", "of": {"name": "clip", "of": {"name": "length", "low": 1}}},
            "inside `of`: inside `of`: low is not an option of length",
        ),
        ({"name": "total", "of": [{"name": "length", "weight": "1"}]}, "weight of length is '1'"),
        ({"name": "total", "of": [{"name": "length", "weight": 0}]}, "no source has a weight"),
    ],
)
def test_wrong_composition_is_refused_with_the_recipe(
    spec: dict[str, object], message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        build("reward", spec)
