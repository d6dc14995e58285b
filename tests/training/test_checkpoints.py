import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from align.errors import RecipeError, StageError
from align.models import load_causal
from align.recipe.sections import Policy
from align.records import WeightsRef
from align.training.checkpoints import (
    MARKER,
    disable_dropout,
    drop_broken_checkpoints,
    ema_weights,
    load_trainable,
    newest_checkpoint,
)
from align.training.checksums import checksums


def _checkpoint(folder: Path, step: int, *, is_whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "global_step" / "moments.bin").write_bytes(bytes(range(100)))
    (path / "model.safetensors").write_bytes(b"weights" * 100)
    if is_whole:
        said = {"ranks": 1, "kind": "plain", "checksums": checksums(path)}
        (path / MARKER).write_text(json.dumps(said))
    return path


def test_newest_checkpoint_ignores_what_is_not_whole(tmp_path: Path) -> None:
    for step, is_whole in ((2, True), (10, True), (12, False)):
        _checkpoint(tmp_path, step, is_whole=is_whole)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert drop_broken_checkpoints(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]
    assert newest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("file", ["model.safetensors", "global_step/moments.bin", MARKER])
def test_a_checkpoint_with_a_flipped_bit_is_not_used(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _checkpoint(tmp_path, 2)
    newest = _checkpoint(tmp_path, 4)
    data = bytearray((newest / file).read_bytes())
    data[0] ^= 1
    (newest / file).write_bytes(data)
    assert drop_broken_checkpoints(tmp_path) == 1
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert f"checkpoint-4 is damaged ({file} " in caplog.text


def test_a_file_that_was_never_in_a_checkpoint_is_no_damage(tmp_path: Path) -> None:
    (_checkpoint(tmp_path, 2) / "universal").mkdir()
    assert drop_broken_checkpoints(tmp_path) == 0


def weights(folder: Path, values: list[float]) -> WeightsRef:
    folder.mkdir()
    save_file({"w": torch.tensor(values, dtype=torch.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return WeightsRef(str(folder))


def test_ema_weights_is_the_weighted_mean(tmp_path: Path) -> None:
    """0.6 * [1, 2] + 0.4 * [3, -2] = [1.8, 0.4]."""
    mean = ema_weights(
        weights(tmp_path / "a", [1, 2]), weights(tmp_path / "b", [3, -2]), 0.6, tmp_path / "c"
    )
    assert mean == WeightsRef(str(tmp_path / "c"))
    from safetensors.torch import load_file

    torch.testing.assert_close(
        load_file(tmp_path / "c" / "model.safetensors")["w"], torch.tensor([1.8, 0.4])
    )
    assert (tmp_path / "c" / "config.json").is_file()


def test_ema_weights_takes_no_word_of_the_policy_for_its_own(tmp_path: Path) -> None:
    """A policy's manifest would make the average a finished step before its weights are there, and
    its probe would tell samplers that they do not hold the average's weights.
    """
    new = weights(tmp_path / "b", [3, -2])
    for name in ("manifest.json", "result.json", "probe.json", "tokenizer.json"):
        (tmp_path / "b" / name).write_text("{}")
    ema_weights(weights(tmp_path / "a", [1, 2]), new, 0.6, tmp_path / "c")
    found = {path.name for path in (tmp_path / "c").iterdir()}
    assert found == {"config.json", "model.safetensors", "tokenizer.json"}


def test_ema_weights_of_one_model_is_that_model(tiny_llama: Path, tmp_path: Path) -> None:
    one = WeightsRef(str(tiny_llama))
    mean = load_causal(ema_weights(one, one, 0.5, tmp_path / "mean"))
    for name, value in load_causal(one).state_dict().items():
        torch.testing.assert_close(mean.state_dict()[name], value, atol=1e-7, rtol=0)


def test_ema_weights_refuses_what_cannot_be_averaged(tmp_path: Path) -> None:
    one, other = weights(tmp_path / "a", [1, 2]), weights(tmp_path / "b", [1, 2, 3])
    with pytest.raises(StageError, match="different tensors"):
        ema_weights(one, other, 0.5, tmp_path / "c")
    with pytest.raises(StageError, match="cannot be averaged"):
        ema_weights(one, WeightsRef(one.base, "adapter"), 0.5, tmp_path / "c")


def test_load_trainable_new_adapter_changes_nothing_and_is_seeded(tiny_llama: Path) -> None:
    policy = Policy(path=str(tiny_llama), peft={"r": 2, "target_modules": ["q_proj"]})
    base = WeightsRef(str(tiny_llama))
    one, two = (load_trainable(base, policy, dtype="float32", seed=3) for _ in range(2))
    ids = torch.tensor([[1, 5, 6]])
    torch.testing.assert_close(one(ids).logits, load_causal(base)(ids).logits)
    trained = {name: p for name, p in one.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name for name in trained)
    for name, value in trained.items():
        assert torch.equal(value, two.get_parameter(name))


def test_load_trainable_refuses_unknown_adapter_options(tiny_llama: Path) -> None:
    policy = Policy(path=str(tiny_llama), peft={"rank": 2})
    with pytest.raises(RecipeError, match=r"policy.peft is refused by peft.LoraConfig: .*rank"):
        load_trainable(WeightsRef(str(tiny_llama)), policy, dtype="float32", seed=0)


def test_disable_dropout_reaches_every_layer() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Sequential(torch.nn.Dropout(0.1)))
    disable_dropout(model)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.0, 0.0]
