"""Reward scores of every kind of decoder: in groups, in padded rows, and by the library's own
forward of single rows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from align.data.characters import make_character_tokenizer
from align.errors import SetupError
from align.inference.packing import TokenRow, pack_rows, single_lines
from align.inference.scores import forward_scores, shares_prompts
from align.models import load_scorer
from tests.inference.models import ARCHITECTURES, make_model

ROWS = [
    TokenRow((1, 5, 9, 12, 3), tail)
    for tail in ((6, 2), (7, 8, 11, 4, 9, 30, 2), (31, 2, 2))  # the last one ends twice
]


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"cohere", "granite"}))
def test_any_decoder_scores_groups_as_single_rows(name: str, tmp_path: Path) -> None:
    """Cohere and Granite have no classifier in transformers. pad = eos: padding must not move the
    place where the score is read.
    """
    make_model(*ARCHITECTURES[name]).save_pretrained(tmp_path)
    tokenizer = make_character_tokenizer("abcdefgh", max_length=128)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    model = load_scorer(tmp_path, seed=3).eval()
    model.save_pretrained(tmp_path)
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    own.config.pad_token_id = None  # then it reads the last token of a single row
    with torch.no_grad():
        expected = [
            float(own(torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0, 0])
            for row in ROWS
        ]
    assert shares_prompts(model, ROWS, 2)
    for lines in ([[[0, 1, 2]]], single_lines(3)):
        found = forward_scores(model, pack_rows(ROWS, lines, 2, whole=True))
        assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 1e-3


def test_a_model_that_is_neither_decoder_nor_encoder_is_refused_by_name(tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=40, d_model=16, d_ff=16, d_kv=16, num_layers=1, num_heads=1, num_labels=1
    )
    T5ForSequenceClassification(config).save_pretrained(tmp_path)
    make_character_tokenizer("abcdefgh", max_length=128).save_pretrained(tmp_path)
    with pytest.raises(SetupError, match="T5ForSequenceClassification reads its score elsewhere"):
        load_scorer(tmp_path)


def test_an_encoder_whose_scores_move_with_padding_is_refused(tmp_path: Path) -> None:
    """FNet mixes all places and knows no mask."""
    config = FNetConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_labels=1
    )
    FNetForSequenceClassification(config).save_pretrained(tmp_path)
    make_character_tokenizer("abcdefgh", max_length=128).save_pretrained(tmp_path)
    model = load_scorer(tmp_path).eval()
    with pytest.raises(SetupError, match="FNetForSequenceClassification lets padding move"):
        shares_prompts(model, ROWS, 0)
