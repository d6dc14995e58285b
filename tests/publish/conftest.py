"""A finished run, written by hand: real weights, real manifests, evaluation numbers with
intervals."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from align.recipe.load import load_recipe, resolved_yaml
from align.records import Json
from align.stages.manifest import Manifest, content_of, write_manifest
from tests.publish.hub_stand_in import TOKEN, HubStandIn

RECIPE = """
run: {name: tiny, seed: 3, iterations: 2}
policy:
  config: {model_type: llama, hidden_size: 64}
  tokenizer: {kind: characters, alphabet: "0123456789+="}
prompts: {name: addition}
sft: {data: {path: org/demonstrations}, args: {}}
generate: {name: vllm, n: 2}
score:
  - {name: reward_model, path: /home/somebody/models/rm}
  - {name: my_pkg.Reward, weight: 0.0, api_key: sk-verysecretverysecret, note:
    hf_abcdefghijklmnopqrstuvwx}
pair: {name: max_min}
train: {objective: {name: dpo, beta: 0.1}, global_batch_size: 8}
evaluate: {prompts: {name: addition, split: test}}
publish: {repo: org/tiny, tags: [arithmetic]}
"""


def interval(mean: float, low: float, high: float) -> dict[str, Json]:
    return {"mean": mean, "low": low, "high": high}


@pytest.fixture
def finish(tmp_path: Path) -> Callable[..., Path]:
    """Writes the manifest of a step of the run in `tmp_path / "run"`."""

    def write(name: str, kind: str, metrics: dict[str, Json] | None = None) -> Path:
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True, exist_ok=True)
        key: dict[str, Json] = {"versions": {"torch": "2.13.0"}}
        manifest = Manifest(
            step=name,
            kind=kind,
            key=key,
            content=content_of(folder),
            counts={"pairs": 1234},
            metrics=metrics or {},
            seconds=1.5,
            finished="2026-01-02T03:04:05Z",
        )
        write_manifest(folder, manifest)
        return folder

    return write


@pytest.fixture
def run_folder(tmp_path: Path, tiny_llama: Path, finish: Callable[..., Path]) -> Path:
    """Two iterations planned, the first finished, with files beside the model that must stay at
    home."""
    out = tmp_path / "run"
    out.mkdir()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml", plugin_options=False)
    (out / "recipe.yaml").write_text(resolved_yaml(recipe))
    for name, kind in (("policy", "init"), ("sft", "sft"), ("iter-000/checkpoint", "policy")):
        shutil.copytree(tiny_llama, out / name)
        finish(name, kind)
    shutil.copytree(tiny_llama, out / "iter-001/checkpoint")
    checkpoint = out / "iter-000/checkpoint"
    (checkpoint / "training_args.bin").write_bytes(b"a pickle")
    (checkpoint / ".trainer").mkdir()
    (checkpoint / ".trainer" / "model.safetensors").write_bytes(b"optimizer")
    start = {"score": interval(0.25, 0.2, 0.3), "kl": 0.0}
    after = {"score": interval(0.5, 0.45, 0.55), "kl": 1.25, "gain": interval(0.25, 0.2, 0.31)}
    finish("start/eval/summary", "evaluate", start)
    finish("iter-000/eval/summary", "evaluate", after)
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The stand-in; it speaks LFS, not Xet's own storage protocol."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubStandIn() as opened:
        yield opened


@pytest.fixture
def api(hub: HubStandIn) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)
