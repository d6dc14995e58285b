"""Reward models with and without faults, and labelled pairs, for the commands that judge them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from align.models import load_scorer, load_tokenizer, make_policy
from align.recipe.sections import Policy
from tests.rewards.conftest import ALPHABET

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="session")
def chat_scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a chat template and a head drawn from a seed: sound, and no better than
    chance.
    """
    folder = tmp_path_factory.mktemp("chat-scorer")
    config: dict[str, object] = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    letters: dict[str, object] = {"kind": "characters", "alphabet": ALPHABET}
    base = tmp_path_factory.mktemp("base")
    make_policy(Policy(config=config, tokenizer=letters), base, seed=1)
    load_scorer(base, seed=3).save_pretrained(str(folder))
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy_scorer(chat_scorer: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(chat_scorer, tmp_path / "broken"))


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """`write_rows(name, rows)`: a file of rows."""

    def write(name: str, rows: list[dict[str, object]]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def chat_rows(count: int = 6, **columns: object) -> list[dict[str, object]]:
    """Pairs whose chosen side is the longer one, as turns; no two share a text."""
    return [
        {
            "prompt": [{"role": "user", "content": f"what is {i}+{i}"}],
            "chosen": [{"role": "assistant", "content": f"it is {2 * i}, I am sure of it"}],
            "rejected": [{"role": "assistant", "content": f"maybe {2 * i + 1}"}],
            **columns,
        }
        for i in range(count)
    ]


def text_rows(count: int = 6, **columns: object) -> list[dict[str, object]]:
    """The same as plain text: RewardBench's form."""
    return [
        {
            "prompt": f"what is {i}+{i}",
            "chosen": f"it is {2 * i}, I am sure of it",
            "rejected": f"maybe {2 * i + 1}",
            **columns,
        }
        for i in range(count)
    ]
