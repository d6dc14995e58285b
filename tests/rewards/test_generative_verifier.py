"""The verdict's probability, against the model's own logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from align.errors import SetupError
from align.models import load_causal, load_tokenizer
from align.records import WeightsRef
from align.rewards.generative_verifier import GenerativeVerifier
from tests.rewards.builders import group_of

QUESTION = "{prompt}{completion}."


def test_value_is_the_share_of_the_two_labels(tiny_llama: Path) -> None:
    """softmax([z_1, z_0])[0] after `3+4=7.`, unpadded; the batch pads the shorter one."""
    texts = ["7", "12345"]
    group = group_of("3+4=", None, *texts)
    scorer = GenerativeVerifier(
        str(tiny_llama), question=QUESTION, labels=("1", "0"), chat_template="none"
    ).open()
    (scores,) = scorer.score([group])
    scorer.close()
    model, tokenizer = load_causal(WeightsRef(str(tiny_llama))).eval(), load_tokenizer(tiny_llama)
    yes, no = (tokenizer.convert_tokens_to_ids(label) for label in "10")
    for text, score in zip(texts, scores, strict=True):
        ids = tokenizer.encode(f"3+4={text}.", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        assert score.value == pytest.approx(
            float(torch.sigmoid(logits[yes] - logits[no])), abs=1e-6
        )


def test_what_cannot_be_asked_fails_by_name(tiny_llama: Path) -> None:
    group = group_of("3+4=", None, "7" * 200)
    scorer = GenerativeVerifier(
        str(tiny_llama), question=QUESTION, labels=("1", "0"), chat_template="none"
    ).open()
    (score,) = scorer.score([group])[0]
    assert score.value is None and "longer than max_length = 128" in (score.error or "")


def test_a_label_of_several_tokens_is_refused(tiny_llama: Path) -> None:
    group = group_of("3+4=", None, "7")
    scorer = GenerativeVerifier(
        str(tiny_llama), question=QUESTION, labels=("10", "0"), chat_template="none"
    ).open()
    with pytest.raises(SetupError, match="writes the label '10' as 2 tokens"):
        scorer.score([group])
