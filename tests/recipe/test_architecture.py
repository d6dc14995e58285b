"""Which models can be trained and sampled here: told by `align check`, before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from align.errors import RecipeError
from align.recipe.load import load_recipe

MADE = (
    "policy:\n  config: %s\n  tokenizer: {kind: characters, alphabet: ab}\n"
    "sft: {data: {path: org/b}}\nprompts: {path: org/b}\n"
)
PATH = "policy: {path: %s}\nprompts: {path: org/b}\n"
VLLM = "generate: {name: vllm%s}\n"
HEADS_OF_48 = "{model_type: llama, hidden_size: 96, num_attention_heads: 2}"
HEADS_OF_32 = "{model_type: llama, hidden_size: 96, num_attention_heads: 3}"


def errors(tmp_path: Path, text: str) -> list[tuple[int | None, str | None, str]]:
    """Line, key and message of each."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    try:
        load_recipe(path, environment=True)
    except RecipeError as error:
        return [(each.line, each.key, each.message) for each in error.errors]
    return []


def checkpoint(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_heads_that_vllm_cannot_run_on_a_cpu_are_told_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """96 / 2 = 48 dimensions, for which its CPU attention has no kernel; 96 / 3 = 32 has one.

    CUDA has kernels for all, another interpreter may have CUDA, and transformers runs any.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ((line, key, message),) = errors(tmp_path, MADE % HEADS_OF_48 + VLLM % "")
    assert (line, key) == (2, "policy.config")
    assert message.startswith("has heads of 48 dimensions, which vLLM cannot run on a CPU (32, 64")
    assert errors(tmp_path, MADE % HEADS_OF_32 + VLLM % "") == []
    assert errors(tmp_path, MADE % HEADS_OF_48 + VLLM % ", python: /other/python") == []
    assert errors(tmp_path, MADE % HEADS_OF_48 + "generate: {name: transformers}\n") == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert errors(tmp_path, MADE % HEADS_OF_48 + VLLM % "") == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_size": 64, "num_attention_heads": 8}, 8),
        ({"hidden_size": 64, "num_attention_heads": 8, "head_dim": 32}, None),
        ({"text_config": {"n_embd": 48, "n_head": 2}}, 24),
        ({"hidden_size": 64, "num_attention_heads": 8, "kv_lora_rank": 4}, None),
        ({}, None),
    ],
)
def test_heads_are_told_of_a_local_checkpoint(
    config: dict[str, object],
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy, and a checkpoint that a sampler names itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = checkpoint(tmp_path / "m", architectures=["LlamaForCausalLM"], **config)
    own = errors(tmp_path, PATH % folder + VLLM % "")
    other = errors(tmp_path, PATH % "org/a" + VLLM % f", policy: {folder}")
    if expected is None:
        assert (own, other) == ([], [])
        return
    assert [(line, key) for line, key, _ in own] == [(1, "policy.path")]
    assert [(line, key) for line, key, _ in other] == [(3, "generate.policy")]
    assert all(f"heads of {expected} dimensions" in message for *_, message in (*own, *other))


def test_a_policy_that_writes_no_text_is_one_error(tmp_path: Path) -> None:
    """A vision transformer, made from a config or lying in a folder."""
    message = 'is the text "vit", of which transformers has no causal language model'
    found = errors(tmp_path, MADE % "{model_type: vit, hidden_sise: 3}" + VLLM % "")
    assert found == [(2, "policy.config.model_type", message)]
    folder = checkpoint(tmp_path / "m", model_type="vit", architectures=["ViTModel"])
    ((line, key, said),) = errors(tmp_path, PATH % folder + VLLM % "")
    assert (line, key) == (1, "policy.path") and "is a vit, of which" in said


def test_a_checkpoint_that_says_it_writes_text_costs_no_import(tmp_path: Path) -> None:
    folder = checkpoint(
        tmp_path / "m",
        model_type="llama",
        architectures=["LlamaForCausalLM"],
        hidden_size=64,
        num_attention_heads=2,
    )
    path = tmp_path / "x.yaml"
    path.write_text(PATH % folder + VLLM % "")
    script = (
        "import sys; from align.recipe.load import load_recipe\n"
        "load_recipe(sys.argv[1], environment=True)\n"
        "sys.exit(bool({'torch', 'transformers', 'vllm'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 0


def test_an_encoder_can_begin_a_reward_model_and_nothing_else(tmp_path: Path) -> None:
    """transformers has no DeBERTa that writes text; of a vision model not even a masked one."""
    deberta = checkpoint(tmp_path / "deberta", model_type="deberta-v2")
    vit = checkpoint(tmp_path / "vit", model_type="vit")
    reward = "policy: {path: %s}\nreward: {data: {path: org/prefs}}\n"
    assert errors(tmp_path, reward % deberta) == []
    says = "of which transformers has no causal language model"
    for text in (reward % deberta + "sft: {data: {path: org/b}}\n", reward % vit):
        ((line, key, message),) = errors(tmp_path, text)
        assert (line, key) == (1, "policy.path") and says in message
