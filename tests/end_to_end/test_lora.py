"""The small recipe with an adapter: sampled without a merge, trained, measured, published whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from align.data.fingerprint import fingerprint
from align.data.shards import read_records
from align.inference.logps import TokenRow, completion_logps
from align.models import load_causal, load_tokenizer, pad_id
from align.records import Sample, WeightsRef

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, run_align: Callable[..., str]
) -> Path:
    """One iteration on one process; length is scored, since so small an adapter cannot add."""
    out = tmp_path_factory.mktemp("lora") / "run"
    peft = "policy.peft={r: 8, lora_alpha: 16, target_modules: all-linear}"
    changes = ("run.iterations=1", "score.name=length", peft)
    run_align("run", small_recipe, "--out", out, *(w for c in changes for w in ("--set", c)))
    return out


def logps(weights: WeightsRef, samples: list[Sample]) -> torch.Tensor:
    """Log-probs of all completion tokens in one row."""
    model = load_causal(weights)
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in samples]
    pad = pad_id(load_tokenizer(weights.adapter or weights.base))
    return torch.cat(completion_logps(model, rows, pad_id=pad))


def test_steps_hold_adapters_that_vllm_samples_without_a_merge(run: Path) -> None:
    """Each sample is of base and adapter, by name and by its stored log-probs (I4)."""
    names = {"iter-000/samples": "sft", "iter-000/eval/samples": "iter-000/checkpoint"}
    for samples_step, weights_step in names.items():
        assert (run / weights_step / "adapter_model.safetensors").is_file()
        assert not (run / weights_step / "model.safetensors").exists()
        weights = WeightsRef(str(run / "policy"), str(run / weights_step))
        samples = read_records(run / samples_step, Sample)[:16]
        assert {sample.policy for sample in samples} == {fingerprint(weights)}
        stored = torch.tensor([value for sample in samples for value in sample.logps or ()])
        assert (logps(weights, samples) - stored).abs().max() < 1e-4
        base = logps(WeightsRef(weights.base), samples)
        assert (base - stored).abs().max() > 1e-2
    manifest = json.loads((run / "iter-000" / "checkpoint" / "manifest.json").read_text())
    assert manifest["metrics"]["sampler_mismatch/max"] < 1e-4
    assert manifest["metrics"]["loss/first"] == pytest.approx(0.693147, abs=1e-5)


def test_divergence_from_the_first_policy_is_measured(run: Path) -> None:
    """It is of the samples' own log-probs under both adapters."""
    metrics = json.loads((run / "iter-000" / "eval" / "summary" / "manifest.json").read_text())
    found = metrics["metrics"]["kl"]
    samples = read_records(run / "iter-000" / "eval" / "samples", Sample)
    new, start = (
        logps(WeightsRef(str(run / "policy"), str(run / step)), samples)
        for step in ("iter-000/checkpoint", "sft")
    )
    expected = float((new - start).sum()) / len(samples)
    assert found["mean"] == pytest.approx(expected, abs=1e-3)
    assert found["low"] < found["mean"] < found["high"]


def test_published_folder_is_a_whole_model(
    run: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    output = run_align("publish", run, "--folder", tmp_path / "published")
    assert f"published iter-000/checkpoint to {tmp_path / 'published'}" in output
    assert (tmp_path / "published" / "README.md").is_file()
    samples = read_records(run / "iter-000" / "eval" / "samples", Sample)
    adapted = WeightsRef(str(run / "policy"), str(run / "iter-000" / "checkpoint"))
    whole = WeightsRef(str(tmp_path / "published"))
    assert (logps(whole, samples) - logps(adapted, samples)).abs().max() < 1e-5
