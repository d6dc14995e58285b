"""What a recipe may say about the model and the trainer, each with the policy engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from align.data.fingerprint import tensor_hash
from align.errors import RecipeError
from align.inference.logps import TokenRow, completion_logps
from align.models import load_causal
from align.records import WeightsRef
from align.training import policy_trainer
from align.training.policy import train_policy
from tests.training.material import (
    SGD,
    make_job,
    make_pairs,
    make_samples,
    relative_gap,
    update_of,
)

DPO: dict[str, object] = {"objective": {"name": "dpo", "beta": 0.5}, "global_batch_size": 4}
PEFT: dict[str, object] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def run(model: Path, out: Path, policy: dict[str, object], **section: object) -> dict[str, Any]:
    samples = make_samples(8)
    job = make_job(model, out, {**DPO, **section}, **policy)
    return train_policy(job, samples, pairs=make_pairs(samples))


def test_gradient_checkpointing_does_not_change_the_update(
    tiny_llama: Path, tmp_path: Path
) -> None:
    updates = []
    for is_on in (False, True):
        out = tmp_path / str(is_on)
        run(tiny_llama, out, {}, args={**SGD, "gradient_checkpointing": is_on})
        updates.append(update_of(tiny_llama, out))
    assert updates[0].norm() > 0.1
    assert relative_gap(*updates) < 1e-5


def test_trained_adapter_switched_off_is_the_base(tiny_llama: Path, tmp_path: Path) -> None:
    """So the cached log-probs of the base are the reference that switching off would give."""
    run(tiny_llama, tmp_path / "out", {"peft": PEFT}, args={"learning_rate": 1e-2})
    adapted = load_causal(WeightsRef(str(tiny_llama), str(tmp_path / "out")))
    assert isinstance(adapted, PeftModel)
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in make_samples(8)]
    base = torch.cat(completion_logps(load_causal(WeightsRef(str(tiny_llama))), rows, pad_id=0))
    on = torch.cat(completion_logps(adapted, rows, pad_id=0))
    with adapted.disable_adapter():
        off = torch.cat(completion_logps(adapted, rows, pad_id=0))
    assert (on - base).abs().max() > 1e-3
    assert torch.equal(off, base)


def test_adapter_resumes_in_the_middle_of_an_epoch_exactly(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section: dict[str, Any] = {"args": {"learning_rate": 1e-2, "max_steps": 5, "save_steps": 1}}
    section |= {"micro_batch_size": 2}
    whole = run(tiny_llama, tmp_path / "whole", {"peft": PEFT}, **section)
    real = policy_trainer.PolicyTrainer.compute_loss

    def stop_in_step_4(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(policy_trainer.PolicyTrainer, "compute_loss", stop_in_step_4)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llama, tmp_path / "halted", {"peft": PEFT}, **section)
    monkeypatch.undo()
    resumed = run(tiny_llama, tmp_path / "halted", {"peft": PEFT}, **section)
    assert tensor_hash(tmp_path / "halted") == tensor_hash(tmp_path / "whole")
    assert resumed == whole


def test_quantised_base_is_refused_where_it_cannot_be_made(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Before any weights are loaded: the folder holds none."""
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    (model / "model.safetensors").write_bytes(b"none")
    message = r"policy.quantization needs the package bitsandbytes and CUDA, .*; pip install"
    with pytest.raises(RecipeError, match=message):
        run(model, tmp_path / "out", {"peft": PEFT, "quantization": {"bits": 4}})


def test_kernel_that_needs_cuda_is_refused_on_a_cpu(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"policy.attention flex_attention needs CUDA.*sdpa"):
        run(tiny_llama, tmp_path / "out", {"attention": "flex_attention"})


def test_kernels_train_alike(tiny_llama: Path, tmp_path: Path) -> None:
    updates = []
    for kernel in ("eager", "sdpa"):
        run(tiny_llama, tmp_path / kernel, {"attention": kernel}, args=SGD)
        updates.append(update_of(tiny_llama, tmp_path / kernel))
    assert updates[0].norm() > 0.1
    assert relative_gap(*updates) < 1e-5
