from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from align.errors import SetupError
from align.inference.adapters import engine_rank, must_merge
from align.inference.vllm_setup import (
    CPU_HEAD_SIZES,
    EngineOptions,
    check_extra,
    check_head_size,
    engine_arguments,
)

cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="what vLLM is told on the CPU")


def _checkpoint(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@cpu_only
@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"hidden_size": 64, "num_attention_heads": 8}, 8),
        ({"head_dim": 16, "hidden_size": 64, "num_attention_heads": 2}, 16),
        ({"n_embd": 96, "n_head": 4}, 24),
        ({"text_config": {"hidden_size": 64, "num_attention_heads": 8}}, 8),
    ],
)
def test_heads_without_a_cpu_kernel_are_refused(
    tmp_path: Path, config: dict[str, object], size: int
) -> None:
    with pytest.raises(SetupError, match=f"heads of {size} dimensions") as caught:
        check_head_size(_checkpoint(tmp_path, **config))
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "use generate: {name: transformers}" in str(caught.value)


@cpu_only
@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 96, "num_attention_heads": 3},
        {"hidden_size": 64, "num_attention_heads": 8, "kv_lora_rank": 16},
        {"model_type": "mamba"},
    ],
)
def test_other_models_are_let_through(tmp_path: Path, config: dict[str, object]) -> None:
    check_head_size(_checkpoint(tmp_path, **config))


@pytest.mark.vllm
def test_head_sizes_are_those_of_vllm() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert list(CPU_HEAD_SIZES) == CPUAttentionBackend.get_supported_head_sizes()


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("gpu_memory_utilisation", 'did you mean "gpu_memory_utilization"?'),
        ("logprobs_mode", "log-probs must be those of the distribution sampled from"),
        ("dtype", "is set by policy.dtype"),
    ],
)
def test_engine_options_that_are_ours_or_unknown_are_refused(key: str, message: str) -> None:
    with pytest.raises(SetupError) as caught:
        check_extra({"max_num_seqs": 8, key: "x"})
    assert f"generate.engine.{key} " in str(caught.value)
    assert message in str(caught.value)


@cpu_only
@pytest.mark.vllm
def test_arguments_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache: 2 x 4 layers x 2 heads x 32 x 4 bytes = 2048 a token; (8192 / 128 + 1) blocks of 128
    are 8320 tokens, 17,039,360 bytes a sequence; 3 sequences."""
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    folder = _checkpoint(
        tmp_path,
        hidden_size=64,
        num_attention_heads=2,
        num_hidden_layers=4,
        max_position_embeddings=8192,
    )
    found = engine_arguments(folder, EngineOptions(extra={"max_num_seqs": 3}))
    assert found["kv_cache_memory_bytes"] == 3 * 8320 * 2048
    assert found["max_num_batched_tokens"] == 8192
    assert found["enable_chunked_prefill"] is False
    assert found["enforce_eager"] is True
    assert found["logprobs_mode"] == "processed_logprobs"
    assert found["max_num_seqs"] == 3
    with pytest.raises(SetupError, match="enable_chunked_prefill cannot be true on the CPU"):
        check_extra({"enable_chunked_prefill": True})
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert "kv_cache_memory_bytes" not in engine_arguments(folder, EngineOptions())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"r": 8}, None),
        ({"r": 8, "bias": "none", "modules_to_save": None, "use_dora": False}, None),
        ({"r": 8, "use_dora": True}, "use_dora"),
        ({"r": 8, "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 8, "bias": "all"}, "bias"),
        ({"r": 8, "peft_type": "IA3"}, "peft_type IA3"),
        ({"r": 600}, "a rank above 512"),
    ],
)
def test_adapters_that_must_be_merged(config: dict[str, object], reason: str | None) -> None:
    assert must_merge(config) == reason


@pytest.mark.parametrize(
    ("config", "rank"),
    [({"r": 1}, 1), ({"r": 4}, 8), ({"r": 64}, 64), ({"r": 8, "rank_pattern": {"q_proj": 40}}, 64)],
)
def test_the_engine_holds_the_adapters_highest_rank(config: dict[str, object], rank: int) -> None:
    assert engine_rank(config) == rank
