"""Format, length and translation rewards at values derived by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from align.records import Sample, Score
from align.registry import PluginError, build
from align.rewards.cosine_length import CosineLength
from align.rewards.format_tags import FormatTags
from align.rewards.overlong import Overlong
from align.rewards.protocol import Group
from align.rewards.translation import Bleu, Chrf
from tests.rewards.builders import group_of, values_of


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("<think>a</think>\n<answer>b</answer>\n", True),
        ("<think>a<b></think><answer>b\nc</answer>", True),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a</think><think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer></answer>", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a</think><answer>b", False),
    ],
)
def test_format_tags_once_in_order_with_nothing_around(text: str, is_right: bool) -> None:
    scores = FormatTags(wrong=-1.0).open().score([group_of("?", None, text)])
    assert values_of(scores) == [[1.0 if is_right else -1.0]]


def test_format_tags_with_text_around_and_with_the_first_opened_by_the_prompt() -> None:
    group = group_of("?", None, "x <think>a</think> y <answer>b</answer> z")
    assert values_of(FormatTags(around=True).open().score([group])) == [[1.0]]
    group = group_of("?", None, "a</think><answer>b</answer>", "<think>a</think><answer>b</answer>")
    assert values_of(FormatTags(opened=True).open().score([group])) == [[1.0, 0.0]]
    with pytest.raises(PluginError, match="'<think>' is not a tag's name"):
        build("reward", {"name": "format_tags", "tags": ["<think>"]})


def of_length(sample: Sample, tokens: int) -> Sample:
    return replace(sample, completion_ids=(1,) * tokens, loss_mask=(1,) * tokens)


def test_overlong_penalty_of_the_reference_vector() -> None:
    """ALGORITHMS 9, DAPO: L_max 20480, cache 4096: 16000, 18432, 20480, 21000 -> 0, -.5, -1, -1."""
    group = group_of("?", None, *"abcd")
    lengths = (16000, 18432, 20480, 21000)
    samples = [of_length(s, n) for s, n in zip(group.samples, lengths, strict=True)]
    group = Group(group.prompt, tuple(samples))
    config = Overlong(longest=20480, margin=4096)
    assert values_of(config.open().score([group])) == [[0.0, -0.5, -1.0, -1.0]]
    assert values_of(replace(config, penalty=2.0).open().score([group])) == [
        [0.0, -1.0, -2.0, -2.0]
    ]
    unknown = Group(group.prompt, (replace(samples[0], completion_ids=(), loss_mask=()),))
    assert config.open().score([unknown])[0][0].error == (
        "overlong: the sample came without tokens to count"
    )
    with pytest.raises(PluginError, match="margin = 2 is more than longest = 1"):
        build("reward", {"name": "overlong", "longest": 1, "margin": 2})


def test_cosine_length_of_the_open_r1_defaults() -> None:
    """Right: 1 at 0, .75 half way (cos = 0), .5 at the end and beyond. Wrong: -1, -.75, -.5. At a
    quarter, cos(pi/4) = .7071: .5 + .5 x .85355 = .926777."""
    group = group_of("?", "4", *["4"] * 5, *["5"] * 3)
    lengths = (0, 500, 1000, 1500, 250, 0, 500, 1000)
    samples = [
        replace(of_length(s, n), text="" if n == 0 else s.text)
        for s, n in zip(group.samples, lengths, strict=True)
    ]
    right = {"name": "python", "function": "tests.rewards.test_shaping.first_five"}
    scores = CosineLength(of=right).open().score([Group(group.prompt, tuple(samples))])[0]
    assert [score.value for score in scores] == pytest.approx(
        [1.0, 0.75, 0.5, 0.5, 0.926777, -1.0, -0.75, -0.5], abs=1e-6
    )
    assert scores[0].parts == {"python": 1.0}


def first_five(prompt: object, samples: list[Sample]) -> list[float]:
    return [float(sample.index < 5) for sample in samples]


def test_cosine_length_by_characters_and_its_failures() -> None:
    group = group_of("?", "xx", "xx", "y")
    config = CosineLength(of={"name": "exact_match"}, longest=4, unit="characters")
    assert values_of(config.open().score([group]))[0] == pytest.approx([0.75, -0.926777], abs=1e-6)
    failed = config.open().score([group_of("?", None, "x")])[0][0]
    assert failed.value is None and str(failed.error).startswith("exact_match: prompt ")


def test_bleu_of_a_sentence() -> None:
    """`the cat sat down` against `the cat sat on the mat`: precisions 3/4, 2/3, 1/2 and, smoothed,
    1/2 of one 4-gram; brevity exp(1 - 6/4). (1/8)^(1/4) x e^-.5 = .360645."""
    texts = ("the cat sat on the mat", "the cat sat down", "<t>the cat</t>")
    group = group_of("?", "the cat sat on the mat", *texts)
    values = values_of(Bleu().open().score([group]))[0]
    assert values[:2] == pytest.approx(
        [1.0, (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25 * 2.718281828459045**-0.5]
    )
    scores = Bleu(extract="<t>(.*)</t>").open().score([group])[0]
    assert scores[0] == Score(group.samples[0].sample_id, 0.0, {"parsed": 0.0})
    assert scores[2].parts == {"parsed": 1.0} and (scores[2].value or 0) > 0
    lower = Bleu(lowercase=True).open().score([group_of("?", ["no", "THE CAT"], "the cat")])
    assert values_of(lower)[0] == pytest.approx([1.0])


def test_chrf_of_a_word() -> None:
    """`abc` against `abd`: 1-grams 2/3, 2-grams 1/2, 3-grams 0, precision and recall alike, orders
    that exist averaged: (2/3 + 1/2 + 0) / 3 = 7/18."""
    group = group_of("?", "abd", "abc", "abd", "xyz")
    assert values_of(Chrf().open().score([group]))[0] == pytest.approx([7 / 18, 1.0, 0.0])
    missing = Chrf().open().score([group_of("?", None, "x")])[0][0]
    assert missing.value is None and "has no reference text" in str(missing.error)
