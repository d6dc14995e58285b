"""Pairwise preference models: the template, both orders, the switch for the header, judge and
rewards."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.data.builtin.pairwise import render_context
from align.errors import SetupError
from align.models import load_tokenizer
from align.records import Prompt
from align.rewards.comparer import average_orders
from align.rewards.pairwise_baseline import PairwiseBaseline, log_odds, pick_baseline
from align.rewards.pairwise_model import PairwiseModel
from align.rewards.protocol import Group
from tests.rewards.builders import group_of, sample_of, values_of

PLAIN = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n"
    " {{ message['content'] }}{% else %}\n\n<turn> assistant\n {{ message['content'] }}"
    "{% endif %}{% endfor %}\n\n\n"
)
"""The template that the released pair models document, for comparison with our rendering."""


@cache
def load_model(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def read_by_hand(folder: Path, text: str, *, bos: bool = True) -> float:
    """sigmoid(z_A - z_B) after one unpadded text."""
    model = load_model(folder)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(text, add_special_tokens=False)
    ids = [tokenizer.bos_token_id, *ids] if bos else ids
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    a, b = (tokenizer.convert_tokens_to_ids(label) for label in ("A", "B"))
    return float(torch.sigmoid(logits[a] - logits[b]))


def ask(context: str, a: str, b: str) -> str:
    return f"[CONTEXT] \n\n<turn> user\n {context}\n [RESPONSE A] {a} [RESPONSE B] {b} \n"


def test_average_of_both_orders_and_its_log_odds() -> None:
    """ALGORITHMS 2.2: (2.0, 1.0) and (0.5, 0.8) -> 0.731059, 0.574443, mean 0.652751, logit
    0.631152."""
    assert average_orders(1.0, 1.0) == pytest.approx((0.731059 + 1 - 0.731059) / 2, abs=1e-6)
    p = average_orders(2.0 - 1.0, 0.5 - 0.8)
    assert p == pytest.approx(0.652751, abs=1e-6)
    assert log_odds(p) == pytest.approx(0.631152, abs=1e-6)
    assert average_orders(1e4, -1e4) == 1.0 and average_orders(-1e4, 1e4) == 0.0


def test_log_odds_are_clamped() -> None:
    """logit(1e-6) = -13.815510"""
    assert log_odds(0.0) == pytest.approx(-13.815510, abs=1e-6)
    assert log_odds(1.0) == pytest.approx(13.815510, abs=1e-6)


def test_context_is_rendered_as_the_released_models_saw_it(writer: Path) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "2+2?"},
    ]
    tokenizer = load_tokenizer(writer)
    expected = tokenizer.apply_chat_template(turns, chat_template=PLAIN, tokenize=False)
    assert render_context(turns) == expected
    assert render_context(Prompt.of("2+2=").messages) == "\n\n<turn> user\n 2+2=\n"


def test_preferences_average_both_orders(writer: Path) -> None:
    group = group_of("2+2=", None, "4", "five!", "a long answer, 4")
    texts = [sample.text for sample in group.samples]
    matrix = PairwiseModel(path=str(writer), batch_size=2).open().preferences([group])[0]
    for i, one in enumerate(texts):
        assert matrix[i][i] == 0.5
        for j, two in enumerate(texts):
            if i != j:
                p = read_by_hand(writer, ask("2+2=", one, two), bos=False)
                q = 1 - read_by_hand(writer, ask("2+2=", two, one), bos=False)
                assert matrix[i][j] == pytest.approx((p + q) / 2, abs=1e-5)
                assert matrix[i][j] + matrix[j][i] == pytest.approx(1.0, abs=1e-12)
    assert abs(matrix[0][1] - 0.5) > 1e-3


def test_reward_is_the_mean_win_rate_and_does_not_depend_on_batch_or_order(writer: Path) -> None:
    groups = [group_of(f"{i}+2=", None, "4", "five!", "a long answer, 4") for i in range(3)]
    scorer = PairwiseModel(path=str(writer), batch_size=1).open()
    matrices = scorer.preferences(groups)
    expected = [
        [sum(p for j, p in enumerate(row) if j != i) / 2 for i, row in enumerate(matrix)]
        for matrix in matrices
    ]
    for size in (3, 64):
        opened = PairwiseModel(path=str(writer), batch_size=size).open()
        for values, row in zip(values_of(opened.score(groups)), expected, strict=True):
            assert values == pytest.approx(row, abs=1e-5)
        turned = [replace(group, samples=group.samples[::-1]) for group in groups[::-1]]
        for values, row in zip(values_of(opened.score(turned))[::-1], expected, strict=True):
            assert values[::-1] == pytest.approx(row, abs=1e-5)


def test_too_long_a_comparison_is_not_made(writer: Path) -> None:
    group = group_of("2+2=", None, "4", "5", "5" * 600)
    scorer = PairwiseModel(path=str(writer)).open()
    matrix = scorer.preferences([group])[0]
    assert [math.isnan(p) for p in matrix[2]] == [True, True, False]
    assert not math.isnan(matrix[0][1]) and math.isnan(matrix[0][2])
    scores = scorer.score([group])[0]
    assert scores[0].value == pytest.approx(matrix[0][1])
    assert scores[2].value is None and "longer than max_length = 512" in str(scores[2].error)
    lone = scorer.score([group_of("2+2=", None, "4")])[0][0]
    assert lone.value is None and "no other sample" in str(lone.error)


@pytest.mark.parametrize("header", [True, False])
def test_assistant_header_is_a_switch(writer: Path, tmp_path: Path, header: bool) -> None:
    """With it the chat prompt is read after the header; without it at the end of the user turn, and
    without BOS."""
    folder = tmp_path / "chat"
    shutil.copytree(writer, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'][0] | upper }}:{{ m['content'] }}."
        "{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    opened = PairwiseModel(path=str(folder), add_generation_prompt=header).open()
    matrix = opened.preferences([group_of("2+2=", None, "4", "five!")])[0]
    orders = [
        read_by_hand(folder, f"U:{ask('2+2=', *pair)}.{'A:' * header}", bos=header)
        for pair in (("4", "five!"), ("five!", "4"))
    ]
    assert matrix[0][1] == pytest.approx((orders[0] + 1 - orders[1]) / 2, abs=1e-5)


def test_labels_must_be_single_known_tokens(tiny_llama: Path) -> None:
    """The arithmetic tokenizer has no letters."""
    with pytest.raises(SetupError, match="label 'A'"):
        PairwiseModel(path=str(tiny_llama)).open()


def test_baseline_score_is_the_log_odds_against_the_baseline(writer: Path) -> None:
    group = group_of("2+2=", None, "4", "five!", "a long answer, 4")
    config = PairwiseBaseline(path=str(writer), seed=1)
    baseline = [sample.text for sample in group.samples].index(pick_baseline(group, seed=1))
    matrix = PairwiseModel(path=str(writer)).open().preferences([group])[0]
    expected = [math.log(row[baseline] / (1 - row[baseline])) for row in matrix]
    values = values_of(config.open().score([group]))[0]
    assert values == pytest.approx(expected, abs=1e-4)
    assert values[baseline] == pytest.approx(0.0, abs=1e-6)
    turned = replace(group, samples=group.samples[::-1])
    assert pick_baseline(turned, seed=1) == pick_baseline(group, seed=1)
    assert {pick_baseline(group, seed) for seed in range(20)} == {s.text for s in group.samples}


def test_baseline_given_with_the_prompt_is_used(writer: Path) -> None:
    prompt = Prompt.of("2+2=", meta={"baseline": "five!"})
    group = Group(prompt, (sample_of(prompt, 0, "4"), sample_of(prompt, 1, "five!")))
    assert pick_baseline(group, seed=0) == "five!"
    scores = PairwiseBaseline(path=str(writer)).open().score([group])[0]
    p = PairwiseModel(path=str(writer)).open().preferences([group])[0][0][1]
    assert scores[0].value == pytest.approx(math.log(p / (1 - p)), abs=1e-5)
    assert scores[0].parts == {"preferred": pytest.approx(p, abs=1e-6)}
