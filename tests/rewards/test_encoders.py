"""Encoders as reward models: the library's own forward on `tokenizer(prompt, completion)`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from align.errors import SetupError
from align.records import Prompt
from align.rewards.process_reward import ProcessReward
from align.rewards.protocol import Group
from align.rewards.reward_model import RewardModel
from align.rewards.served_reward_model import ServedRewardModel
from tests.inference.encoder_models import CONTEXT, NAMES, make_encoder
from tests.rewards.builders import sample_of, values_of

TEXTS = ["4", "the answer is 4", "no", "a longer answer, of many words", "", "5"]
QUESTIONS = ["2+2=", "what is 2 and 2?"]


def groups_of(role: str) -> list[Group]:
    prompts = [Prompt.of([{"role": role, "content": question}]) for question in QUESTIONS]
    return [
        Group(prompt, tuple(sample_of(prompt, i, text) for i, text in enumerate(TEXTS)))
        for prompt in prompts
    ]


def score_by_hand(folder: Path, *segments: str) -> float:
    """One unpadded row through the library alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        read = dict(tokenizer(*segments, return_tensors="pt"))
        if model.config.model_type != "bert":
            read.pop("token_type_ids", None)
        return float(model(**read).logits[0, 0])


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_librarys_own_whatever_batch_order_and_padding(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_encoder(name, tmp_path)
    expected = [[score_by_hand(tmp_path, q, text) for text in TEXTS] for q in QUESTIONS]
    assert len({round(value, 3) for row in expected for value in row}) == 2 * len(TEXTS)
    for role in ("user", "text"):
        groups = groups_of(role)
        for size in (1, 3, 64):
            scorer = RewardModel(path=str(tmp_path), batch_size=size).open()
            assert not scorer.scores_ids
            for given, wanted in ((groups, expected), (groups[::-1], expected[::-1])):
                for values, row in zip(values_of(scorer.score(given)), wanted, strict=True):
                    assert values == pytest.approx(row, abs=1e-6)
    assert "so it scores a row at a time" in caplog.text


def test_token_types_mark_the_completion(tmp_path: Path) -> None:
    """They move a BERT's score: without them it would be another number."""
    make_encoder("bert", tmp_path)
    group = groups_of("user")[0]
    (values,) = values_of(RewardModel(path=str(tmp_path)).open().score([group]))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    read = dict(tokenizer(QUESTIONS[0], TEXTS[1], return_tensors="pt"))
    # [CLS] 2 + 2 = [SEP] and 15 characters [SEP]
    assert read["token_type_ids"].tolist() == [[0] * 6 + [1] * 16]
    with torch.no_grad():
        without = float(model(**read | {"token_type_ids": 0 * read["token_type_ids"]}).logits)
    assert values[1] is not None and abs(values[1] - without) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_conversation_is_one_segment(name: str, tmp_path: Path) -> None:
    """`plain` writes the end of a turn by the token that ends a segment; a cut sample has none."""
    make_encoder(name, tmp_path)
    prompt = Prompt.of(
        [
            {"role": "user", "content": "2+2="},
            {"role": "assistant", "content": "5"},
            {"role": "user", "content": "no"},
        ]
    )
    sample = sample_of(prompt, 0, "4")
    group = Group(prompt, (sample, replace(sample_of(prompt, 1, "4"), finish="length")))
    end = AutoTokenizer.from_pretrained(tmp_path).sep_token
    text = f"User: 2+2=\n\nAssistant: 5{end}\n\nUser: no\n\nAssistant: 4"
    expected = [score_by_hand(tmp_path, text + end), score_by_hand(tmp_path, text)]
    scores = RewardModel(path=str(tmp_path), chat_template="plain").open().score([group])
    assert values_of(scores)[0] == pytest.approx(expected, abs=1e-6)
    refused = RewardModel(path=str(tmp_path)).open().score([group])[0][0]
    assert refused.value is None and "has no chat template" in str(refused.error)


@pytest.mark.parametrize("name", NAMES)
def test_context_bounds_a_row(name: str, tmp_path: Path) -> None:
    """[CLS] p [SEP] a [SEP], RoBERTa's with one more: a row of exactly 128 tokens is scored, one
    token more fails.
    """
    make_encoder(name, tmp_path)
    prompt = Prompt.of([{"role": "user", "content": "2+2="}])
    room = CONTEXT - 4 - (4 if name == "roberta" else 3)
    texts = ("4" * room, "4" * (room + 1))
    group = Group(prompt, tuple(sample_of(prompt, i, text) for i, text in enumerate(texts)))
    wanted = 1000 if name in ("bert", "roberta") else None  # more than the table of positions has
    config = RewardModel(path=str(tmp_path), max_length=wanted)
    fits, not_ = config.open().score([group])[0]
    assert fits.value == pytest.approx(score_by_hand(tmp_path, "2+2=", texts[0]), abs=1e-6)
    assert not_.value is None
    assert f"{CONTEXT + 1} tokens are more than max_length = {CONTEXT}" in str(not_.error)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_without_head_is_refused(name: str, tmp_path: Path) -> None:
    make_encoder(name, tmp_path, headless=True)
    with pytest.raises(
        SetupError, match=r"not a reward model: its weights have no head .*classifier"
    ):
        RewardModel(path=str(tmp_path)).open()


def test_a_head_that_lacks_its_pooler_is_refused(tmp_path: Path) -> None:
    """It would be drawn anew, and every score with it."""
    make_encoder("deberta-v2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["pooler.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SetupError, match=r"have no head \(pooler\.dense\.weight\)"):
        RewardModel(path=str(tmp_path)).open()


@pytest.mark.parametrize("name", NAMES)
def test_a_head_of_several_labels_is_refused(name: str, tmp_path: Path) -> None:
    make_encoder(name, tmp_path, num_labels=3)
    with pytest.raises(SetupError, match="its head has 3 labels, and a reward model's has one"):
        RewardModel(path=str(tmp_path)).open()


def test_what_an_encoder_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    make_encoder("bert", tmp_path)
    with pytest.raises(SetupError, match="is an encoder, which has one score for a whole text"):
        ProcessReward(path=str(tmp_path)).open()
    with pytest.raises(SetupError, match=r"is an encoder.*write \{name: reward_model, path"):
        ServedRewardModel(path=str(tmp_path)).open()


def test_not_finite_output_is_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_encoder("bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["classifier.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with caplog.at_level(logging.ERROR):
        scores = RewardModel(path=str(tmp_path)).open().score(groups_of("user"))[0]
    assert scores[0].value is None and scores[0].error == "the model's output is nan"
