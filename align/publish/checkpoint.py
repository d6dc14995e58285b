"""Which weights of a run are published, and the files that make up the published folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from align.errors import InputError
from align.recipe.sections import Recipe
from align.records import WeightsRef
from align.stages.folder import RunFolder
from align.stages.manifest import Manifest
from align.stages.steps import Step

PUBLISHED = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
"""Everything else of a step's folder stays: manifests, trainer states, pickles (I8)."""


@dataclass(frozen=True)
class Checkpoint:
    """The model that a run ends with."""

    step: Step
    manifest: Manifest
    weights: WeightsRef
    hub_base: str | None
    """Hub id of the model that the run started from, or None where it began with a folder or from
    scratch."""


def find_checkpoint(run: RunFolder) -> Checkpoint:
    """The last finished step that holds the policy, or the one that a stop of the loop or
    `publish.model: best` keeps; for a recipe without a policy the reward model.

    Raises `InputError` where no such step is finished.
    """
    verdict = run.verdict()
    kept = verdict.kept
    finished = [
        (step, run.manifest(step.name))
        for step in run.steps()
        if kept in (None, step.name.partition("/")[0]) or step.kind != "policy"
    ]
    if kept == "start" and not any(step.kind == "sft" for step, _ in finished):
        remedy = "set publish.model: last"
        if verdict.last is not None:
            remedy = "raise the bound in run.stop and run again with --redo stop"
        raise InputError(
            f"{run.out}: the loop kept the policy that it began with (`align show {run.out}`), so "
            f"there is nothing new to publish; {remedy}"
        )
    for kinds in (("policy", "sft"), ("reward",), ("init",)):
        for step, manifest in reversed(finished):
            if step.kind in kinds and manifest is not None:
                weights = run.weights(f"step:{step.name}")
                return Checkpoint(step, manifest, weights, hub_base(run.recipe))
    raise InputError(
        f"{run.out} holds no finished model to publish; run `align run` to its end first"
    )


def hub_base(recipe: Recipe) -> str | None:
    """`policy.path` where it is a Hub id."""
    path = recipe.policy.path if recipe.policy is not None else None
    if path is None or path.startswith((".", "/", "~")) or path.count("/") != 1:
        return None
    return None if Path(path).exists() else path


def stage_files(
    checkpoint: Checkpoint,
    target: Path,
    put: Callable[[Path, Path], object] = shutil.copy2,
    *,
    merge: bool = False,
) -> None:
    """Fills `target` with the model's files by `put(source, destination)`, a copy or a link.

    An adapter stays one where its base is on the Hub, and names it by its Hub id; with `merge`, and
    where nobody else could load it, it is merged into whole weights. Raises `InputError` where the
    folder holds no safetensors.
    """
    source = Path(checkpoint.weights.adapter or checkpoint.weights.base)
    target.mkdir(parents=True, exist_ok=True)
    if checkpoint.weights.adapter is not None and (merge or checkpoint.hub_base is None):
        _merge(checkpoint, target)
        _put_matching(source, target, put, [name for name in PUBLISHED if "token" in name])
        _put_matching(source, target, put, ["vocab.json", "merges.txt", "*.jinja"])
    else:
        _put_matching(source, target, put, PUBLISHED)
        if checkpoint.weights.adapter is not None and checkpoint.hub_base is not None:
            _name_base(source, target, checkpoint.hub_base)
    if not any(target.glob("*.safetensors")):
        raise InputError(f"{source} holds no *.safetensors weights to publish")


def _put_matching(
    source: Path,
    target: Path,
    put: Callable[[Path, Path], object],
    patterns: list[str] | tuple[str, ...],
) -> None:
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            destination = target / file.relative_to(source)
            if not destination.exists():
                destination.parent.mkdir(parents=True, exist_ok=True)
                put(file.resolve(), destination)


def _name_base(source: Path, target: Path, base: str) -> None:
    """Writes the adapter's config with the base's Hub id; training saw a folder of this machine."""
    configuration = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    configuration["base_model_name_or_path"] = base
    destination = target / "adapter_config.json"
    destination.unlink(missing_ok=True)
    destination.write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")


def _merge(checkpoint: Checkpoint, target: Path) -> None:
    from peft import PeftModel

    from align.models import load_causal, load_scorer

    load = load_scorer if checkpoint.step.kind == "reward" else load_causal
    model = load(checkpoint.weights)
    if not isinstance(model, PeftModel):
        raise InputError(f"{checkpoint.weights.adapter} holds no adapter that can be merged")
    model.merge_and_unload().save_pretrained(target)
