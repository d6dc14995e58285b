"""Tiny models for reward tests: one vocabulary of printable characters, random weights from a
seed."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from align.models import load_scorer, load_tokenizer, make_policy
from align.recipe.sections import Policy

ALPHABET = string.ascii_letters + string.digits + " []<>+-=.,?!:\n"


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal Llama, 2 layers, 64 wide, context of 512 characters, no chat template."""
    folder = tmp_path_factory.mktemp("writer")
    config: dict[str, object] = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    tokenizer: dict[str, object] = {"kind": "characters", "alphabet": ALPHABET}
    make_policy(Policy(config=config, tokenizer=tokenizer), folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def scorer_folder(writer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with the writer's tokenizer and a head drawn from a seed."""
    folder = tmp_path_factory.mktemp("scorer")
    load_scorer(writer, seed=3).save_pretrained(folder)
    load_tokenizer(writer).save_pretrained(folder)
    return folder
