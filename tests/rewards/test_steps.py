"""Steps of a completion: where they end in characters and tokens, their scores and aggregates."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from align.data.chat import encode_pair
from align.models import load_tokenizer
from align.records import Prompt
from align.registry import PluginError, build
from align.rewards.process_reward import combine, sigmoid
from align.rewards.segments import segment_ends, token_ends
from tests.rewards.builders import group_of
from tests.rewards.test_reward_model import make_group, score_by_hand

TEXT = "one is 1\n\nso two is 2\n\n2"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (TEXT, [10, 23, 24]),
        ("no steps", [8]),
        ("a\n\nb\n\n", [3, 6]),
        ("\n\na\n\n\n\nb", [5, 8]),
        (" \n\n ", []),
        ("", []),
    ],
)
def test_segments_take_their_separator_and_never_are_blank(text: str, ends: list[int]) -> None:
    assert segment_ends(text, re.compile("\n\n")) == ends
    assert segment_ends(text, None) == ([len(text)] if text.strip() else [])


def test_token_ends_follow_the_characters_and_the_last_takes_the_end_token(writer: Path) -> None:
    """One token a character, and one end token: 10, 23, 24 + 1."""
    tokenizer = load_tokenizer(writer)
    before, after = encode_pair(tokenizer, Prompt.of("2=").messages, TEXT, None)
    assert token_ends(tokenizer, before, after, [10, 23, 24]) == [10, 23, 25]
    assert token_ends(tokenizer, before, after, []) == []


def test_token_ends_of_a_real_tokenizer_decode_to_whole_segments(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "models" / "tinystories-llama-260k")
    before, after = encode_pair(tokenizer, Prompt.of("Once").messages, TEXT, None)
    ends = token_ends(tokenizer, before, after, segment_ends(TEXT, re.compile("\n\n")))
    pieces = [str(tokenizer.decode(after[a:b])) for a, b in zip([0, *ends], ends, strict=False)]
    assert [piece.strip() for piece in pieces[:2]] == ["one is 1", "so two is 2"]


def test_combine_by_hand() -> None:
    values = [0.5, 0.2, 0.8]
    found = [combine(values, how) for how in ("mean", "min", "product", "last")]
    assert found == pytest.approx([0.5, 0.2, 0.08, 0.8])
    assert sigmoid(0.0) == 0.5 and sigmoid(-1e4) == 0.0 and sigmoid(math.log(3)) == 0.75


def test_each_step_is_the_score_of_the_completion_up_to_it(scorer_folder: Path) -> None:
    """A causal model read at a step's last token has seen what a row that ends there would show."""
    group = make_group(scorer_folder, texts=[TEXT, "4", "a\n\nb"])
    sample = group.samples[0]
    ends = [10, 23, 25]
    by_hand = [
        score_by_hand(scorer_folder, replace(sample, completion_ids=sample.completion_ids[:end]))
        for end in ends
    ]
    spec = {"name": "process_reward", "path": str(scorer_folder), "policy": str(scorer_folder)}
    for batch in (1, 8):
        options = {"activation": "none", "aggregate": "mean", "batch_size": batch}
        scores = build("reward", {**spec, **options}).open().score([group])[0]
        spans = scores[0].spans
        assert [(first, end) for first, end, _ in spans] == [(0, 10), (10, 23), (23, 25)]
        assert [value for _, _, value in spans] == pytest.approx(by_hand, abs=1e-5)
        assert scores[0].value == pytest.approx(sum(by_hand) / 3, abs=1e-5)
        assert scores[0].parts["steps"] == 3.0
    scores = build("reward", {**spec, "aggregate": "product"}).open().score([group])[0]
    wanted = math.prod(sigmoid(value) for value in by_hand)
    assert scores[0].value == pytest.approx(wanted, abs=1e-5)


def test_text_of_another_tokenizer_gives_a_value_and_no_spans(scorer_folder: Path) -> None:
    spec = {"name": "process_reward", "path": str(scorer_folder)}
    fine, blank = build("reward", spec).open().score([group_of("2=", None, TEXT, " ")])[0]
    assert fine.value is not None and fine.spans == ()
    assert blank.value is None and "no step to score" in str(blank.error)


def test_product_of_logits_and_a_broken_pattern_are_refused() -> None:
    spec = {"name": "process_reward", "path": "x"}
    with pytest.raises(PluginError, match="product of raw logits"):
        build("reward", {**spec, "aggregate": "product", "activation": "none"})
    with pytest.raises(PluginError, match="not a regular expression"):
        build("reward", {**spec, "separator": "("})


def test_fine_grained_sums_weighted_segments_on_their_last_tokens(scorer_folder: Path) -> None:
    """One model by step with weight 0.3, centre 1 and spread 2, one for the whole text with -1."""
    group = make_group(scorer_folder, texts=[TEXT])
    sample = group.samples[0]
    by_hand = [
        score_by_hand(scorer_folder, replace(sample, completion_ids=sample.completion_ids[:end]))
        for end in (10, 23, 25)
    ]
    steps = {"separator": "\n\n", "weight": 0.3, "centre": 1.0, "spread": 2.0}
    path = str(scorer_folder)
    spec = {
        "name": "fine_grained",
        "policy": path,
        "models": [
            {"path": path, "label": "steps", **steps},
            {"path": path, "label": "whole", "weight": -1.0},
        ],
    }
    score = build("reward", spec).open().score([group])[0][0]
    shares = [0.3 * (value - 1) / 2 for value in by_hand]
    assert score.parts == pytest.approx({"steps": sum(shares), "whole": -by_hand[2]}, abs=1e-5)
    assert score.value == pytest.approx(sum(shares) - by_hand[2], abs=1e-5)
    placed = [(first, end) for first, end, _ in score.spans]
    assert placed == [(9, 10), (22, 23), (24, 25), (24, 25)]
    assert sum(value for _, _, value in score.spans) == pytest.approx(score.value, abs=1e-5)
