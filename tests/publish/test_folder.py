"""Publishing to a folder: what is chosen, what is copied, what is refused; adapters; the
command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from align import cli
from align.errors import InputError, StageError
from align.launch import publish as launch_publish
from align.models import load_causal
from align.publish.run import Target, publish_run
from align.publish.verify import compare, hash_folder
from align.records import WeightsRef


def test_folder_holds_the_model_and_is_equal_to_the_step(run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "published"
    published = publish_run(run_folder, Target(folder=target))
    source = run_folder / "iter-000/checkpoint"
    assert published.files == hash_folder(target)
    assert not (target / "training_args.bin").exists() and not (target / ".trainer").exists()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert not (target / name).is_symlink()


def test_last_finished_model_is_taken(
    run_folder: Path, tmp_path: Path, finish: Callable[..., Path]
) -> None:
    """iter-001's weights lie there without a manifest; once it has one, it is the last."""
    assert publish_run(run_folder, Target(folder=tmp_path / "a")).step == "iter-000/checkpoint"
    finish("iter-001/checkpoint", "policy")
    assert publish_run(run_folder, Target(folder=tmp_path / "b")).step == "iter-001/checkpoint"
    for name in ("iter-000", "iter-001"):
        shutil.rmtree(run_folder / name)
    assert publish_run(run_folder, Target(folder=tmp_path / "c")).step == "sft"
    shutil.rmtree(run_folder / "sft")
    assert publish_run(run_folder, Target(folder=tmp_path / "d")).step == "policy"
    shutil.rmtree(run_folder / "policy")
    with pytest.raises(InputError, match="no finished model to publish"):
        publish_run(run_folder, Target(folder=tmp_path / "e"))


def test_publishing_that_was_killed_leaves_nothing_behind(run_folder: Path, tmp_path: Path) -> None:
    """Killed when the new model is whole and the one before lies in its place."""
    target = tmp_path / "there" / "published"
    first = publish_run(run_folder, Target(folder=target)).files
    code = (
        "import os, pathlib, shutil, signal, sys\n"
        "from align.publish.folder import write_folder\n"
        "def fill(staged):\n"
        "    shutil.copytree(sys.argv[1], staged)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_folder(pathlib.Path(sys.argv[1]), fill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(target.parent.iterdir())) == 2
    assert hash_folder(target) == first
    publish_run(run_folder, Target(folder=target))
    assert list(target.parent.iterdir()) == [target]


def test_folder_of_ours_is_replaced_and_any_other_is_refused(
    run_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "published"
    publish_run(run_folder, Target(folder=target))
    (target / "stale.safetensors").write_bytes(b"old")
    publish_run(run_folder, Target(folder=target))
    assert not (target / "stale.safetensors").exists()
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter-1.txt").write_text("It was")
    with pytest.raises(InputError, match="was not published by align"):
        publish_run(run_folder, Target(folder=precious))
    assert (precious / "chapter-1.txt").read_text() == "It was"
    assert sorted(path.name for path in tmp_path.iterdir() if "thesis" in path.name) == ["thesis"]


def test_comparison_names_the_file() -> None:
    with pytest.raises(StageError, match=r"b\.json is missing in there"):
        compare({"a": "1", "b.json": "2"}, {"a": "1"}, "there")
    with pytest.raises(StageError, match="a read back from there is not what was sent"):
        compare({"a": "1"}, {"a": "2"}, "there")


def make_adapter(folder: Path, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    for file in folder.iterdir():
        if "token" not in file.name and file.name != "manifest.json":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    adapted.save_pretrained(folder)


@pytest.mark.parametrize("on_hub", [False, True])
def test_adapter_on_a_local_base_or_by_wish_is_merged(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_hub: bool
) -> None:
    """Where nobody else has the base, or with `merge`: whole weights that give the same logits."""
    folder = run_folder / "iter-000/checkpoint"
    make_adapter(folder, run_folder / "policy")
    if on_hub:
        _name_hub_base(run_folder, monkeypatch)
    publish_run(run_folder, Target(folder=tmp_path / "published", merge=on_hub))
    assert not (tmp_path / "published/adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "published")
    adapted = load_causal(WeightsRef(str(run_folder / "policy"), str(folder)))
    base = load_causal(WeightsRef(str(run_folder / "policy")))
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        difference = (merged(ids).logits - adapted(ids).logits).abs().max()
        effect = (base(ids).logits - adapted(ids).logits).abs().max()
    assert difference < 1e-5 < 1e-3 < effect
    assert (tmp_path / "published/tokenizer.json").is_file()


def _name_hub_base(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = (run_folder / "recipe.yaml").read_text()
    start, end = recipe.index("policy:"), recipe.index("prompts:")
    recipe = recipe[:start] + "policy: {path: org/base}\n" + recipe[end:]
    (run_folder / "recipe.yaml").write_text(recipe)
    # The base would be downloaded for its fingerprint; here it lies in the run.
    monkeypatch.setattr("align.stages.folder.local_folder", lambda *_: run_folder / "policy")


def test_adapter_on_a_hub_base_stays_an_adapter_and_names_it(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder / "iter-000/checkpoint"
    make_adapter(folder, run_folder / "policy")
    _name_hub_base(run_folder, monkeypatch)
    publish_run(run_folder, Target(folder=tmp_path / "published"))
    settings = json.loads((tmp_path / "published/adapter_config.json").read_text())
    card = (tmp_path / "published/README.md").read_text()
    assert settings["base_model_name_or_path"] == "org/base"
    assert "base_model: org/base" in card and "base_model_relation: adapter" in card
    assert "library_name: peft" in card
    assert not (tmp_path / "published/model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(run_folder / "policy")


def test_command_publishes_and_reports(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "published"
    assert cli.main(["publish", str(run_folder), "--folder", str(target)]) == 0
    assert f"published iter-000/checkpoint to {target}" in capsys.readouterr().out
    assert cli.main(["publish", str(tmp_path / "nothing"), "--folder", str(target)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    both = ["publish", str(run_folder), "--folder", str(target), "--repo", "org/x"]
    assert cli.main(both) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_publish_step_of_a_run_reports_its_result(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `align run` calls it: to `publish.folder`, `result.json` in the step folder."""
    target = tmp_path / "published"
    recipe = (run_folder / "recipe.yaml").read_text().partition("publish:")[0]
    (run_folder / "recipe.yaml").write_text(f"{recipe}publish: {{folder: {target}}}\n")
    words = ["publish", str(run_folder / "recipe.yaml"), "--out", str(run_folder)]
    monkeypatch.setattr("sys.argv", [*words, "--step", "publish"])
    assert launch_publish.main() == 0
    result = json.loads((run_folder / "publish" / "result.json").read_text())
    assert result["metrics"] == {
        "place": str(target),
        "step": "iter-000/checkpoint",
        "commit": None,
    }
    assert result["counts"] == {"files": len(hash_folder(target))}
