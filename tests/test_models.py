"""Weights: made from a seed, loaded as saved, scored at the last attended position."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from align.data.fingerprint import tensor_hash
from align.errors import DataError
from align.models import load_causal, load_scorer, load_tokenizer, make_policy, pad_id, stop_ids
from align.recipe.sections import Policy
from align.records import WeightsRef

CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
TOKENIZER: dict[str, object] = {"kind": "characters", "alphabet": "01+="}


def test_character_tokenizer_has_one_token_a_character(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = tokenizer("12+3= 4?").input_ids
    assert ids == [5, 6, 14, 7, 20, 22, 8, 3]
    assert tokenizer.decode(ids[:-1]) == "12+3= 4"
    assert tokenizer.decode([*ids[:3], 2], skip_special_tokens=True) == "12+"
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.chat_template is None
    assert tokenizer.model_max_length == 128


def test_make_policy_depends_on_the_seed_alone(tmp_path: Path) -> None:
    policy = Policy(config=CONFIG, tokenizer=TOKENIZER)
    hashes = []
    for index, seed in enumerate([0, 0, 1]):
        torch.manual_seed(100 + index)
        before = torch.get_rng_state()
        make_policy(policy, tmp_path / str(index), seed)
        assert torch.equal(before, torch.get_rng_state())
        hashes.append(tensor_hash(tmp_path / str(index)))
    assert hashes[0] == hashes[1] != hashes[2]
    config = json.loads((tmp_path / "0" / "config.json").read_text())
    assert (config["vocab_size"], config["dtype"]) == (8, "float32")
    assert stop_ids(tmp_path / "0") == [2]


def test_make_policy_takes_a_saved_tokenizer(shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "tinystories-llama-260k"
    make_policy(Policy(config=CONFIG, tokenizer={"path": str(source)}), tmp_path, 0)
    assert (
        load_tokenizer(tmp_path)("It had").input_ids == load_tokenizer(source)("It had").input_ids
    )
    assert load_causal(WeightsRef(str(tmp_path))).config.vocab_size == 512


@pytest.mark.parametrize(
    ("config", "tokenizer", "message"),
    [
        (
            CONFIG | {"hidden_sise": 3},
            TOKENIZER,
            'hidden_sise is not an option of llama; did you mean "hidden_size"',
        ),
        (CONFIG | {"model_type": "lama"}, TOKENIZER, "'lama' is not known"),
        (CONFIG | {"hidden_size": "x"}, TOKENIZER, "expected int, got str"),
        (CONFIG, {"kind": "characters", "alphabet": "011"}, r"repeats \['1'\]"),
        (CONFIG, {"kind": "words"}, "is not understood"),
    ],
)
def test_make_policy_refuses(
    config: dict[str, object], tokenizer: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        make_policy(Policy(config=config, tokenizer=tokenizer), tmp_path, 0)


def test_tinystories_loads_and_stops_at_both_ends(shared: Path) -> None:
    folder = shared / "models" / "tinystories-llama-260k"
    model = load_causal(WeightsRef(str(folder)))
    assert sum(parameter.numel() for parameter in model.parameters()) == 260_032
    assert model.dtype == torch.float32 and not model.training
    assert load_causal(WeightsRef(str(folder)), dtype="bfloat16").dtype == torch.bfloat16
    assert stop_ids(folder) == [1, 2]
    assert pad_id(load_tokenizer(folder)) == 0


def test_scorer_head_is_seeded_and_read_at_the_last_attended_position(tiny_llama: Path) -> None:
    scorer = load_scorer(tiny_llama, seed=3)
    assert torch.equal(scorer.score.weight, load_scorer(tiny_llama, seed=3).score.weight)
    assert not torch.equal(scorer.score.weight, load_scorer(tiny_llama, seed=4).score.weight)
    assert scorer.config.pad_token_id == 0
    alone = scorer(torch.tensor([[5, 6, 0]])).logits  # a row that truly ends in the pad token
    rows = torch.tensor([[5, 6, 0, 0, 0], [0, 0, 5, 6, 0], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    logits = scorer(input_ids=rows, attention_mask=mask).logits
    assert logits.shape == (3, 1)
    torch.testing.assert_close(logits[:2], alone.expand(2, 1), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="needs the attention mask"):
        scorer(input_ids=rows)


def test_scorer_is_read_back_with_its_head(tiny_llama: Path, tmp_path: Path) -> None:
    scorer = load_scorer(tiny_llama, seed=3)
    scorer.save_pretrained(tmp_path)
    load_tokenizer(tiny_llama).save_pretrained(tmp_path)
    again = load_scorer(tmp_path, seed=9)
    assert torch.equal(again.score.weight, scorer.score.weight)


def test_scorer_takes_an_adapter_and_its_head_comes_back(tiny_llama: Path, tmp_path: Path) -> None:
    config = LoraConfig(
        r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False
    )
    adapted = get_peft_model(load_scorer(tiny_llama, seed=3), config).eval()
    rows, mask = torch.tensor([[5, 6, 0], [5, 6, 7]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = adapted(input_ids=rows, attention_mask=mask).logits
    adapted.save_pretrained(tmp_path)
    loaded = load_scorer(WeightsRef(str(tiny_llama), str(tmp_path)), seed=8)
    torch.testing.assert_close(loaded(input_ids=rows, attention_mask=mask).logits, expected)


def test_adapter_is_put_on_its_base(tiny_llama: Path, tmp_path: Path) -> None:
    base = load_causal(WeightsRef(str(tiny_llama)))
    ids = torch.tensor([[5, 6, 14, 7]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = get_peft_model(
            base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        )
        expected = adapted(ids).logits
        adapted.save_pretrained(tmp_path)
        loaded = load_causal(WeightsRef(str(tiny_llama), str(tmp_path)))
        torch.testing.assert_close(loaded(ids).logits, expected)
    assert not torch.allclose(expected, plain, atol=1e-4)
    trainable = load_causal(WeightsRef(str(tiny_llama), str(tmp_path)), is_trainable=True)
    names = [name for name, parameter in trainable.named_parameters() if parameter.requires_grad]
    assert len(names) == 4 and all("lora_" in name for name in names)


def test_pickled_weights_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled weights are not loaded"):
        load_causal(WeightsRef(str(tmp_path)))
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        load_causal(WeightsRef(str(tiny_llama), str(tmp_path)))
