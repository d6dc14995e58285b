"""A run on disk: where its steps lie, which weights they name, and the key of each step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from align.data.fingerprint import folder_fingerprint, local_folder, tokenizer_hash
from align.data.splits import SUFFIXES, is_note
from align.errors import StageError
from align.recipe.sections import Recipe
from align.records import Json, WeightsRef
from align.stages.code import code_hashes
from align.stages.manifest import Manifest, read_manifest
from align.stages.step import Step, Verdict
from align.stages.steps import plan
from align.stages.verdict import read_verdict

KEY_FORMAT = 1
"""Raise when a step's meaning changes, so that no step made before is taken for one made after."""
_CONTENT_SUFFIXES = (*SUFFIXES, ".tsv", ".safetensors", ".jinja")
_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "sft": ("torch", "transformers", "trl"),
    "reward": ("torch", "transformers", "trl"),
    "policy": ("torch", "transformers"),
}
"""Kind of a step -> the libraries that decide what it makes."""
_PLUGIN_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("vllm",),
    "transformers": ("transformers",),
    "reward_model": ("torch", "transformers"),
    "ensemble": ("torch", "transformers"),
    "process_reward": ("torch", "transformers"),
    "fine_grained": ("torch", "transformers"),
    "served_reward_model": ("transformers", "vllm"),
    "judge": ("vllm",),
    "pairwise_judge": ("vllm",),
    "pairwise_model": ("torch", "transformers"),
    "pairwise_baseline": ("torch", "transformers"),
    "generative_verifier": ("torch", "transformers"),
    "math_verify": ("latex2sympy2-extended", "math-verify", "sympy"),
    "answer_clusters": ("latex2sympy2-extended", "math-verify", "sympy"),
    "bleu": ("sacrebleu",),
    "chrf": ("sacrebleu",),
}
"""The same for the samplers and rewards that a step names: another version may sample or judge
otherwise."""
_ASKING = frozenset({"requests", "token_variable", "place", "start_seconds"})
_NO_CONTENT: Mapping[str, frozenset[str]] = {
    "served_reward_model": _ASKING,
    "judge": _ASKING,
    "pairwise_judge": _ASKING,
    "http": frozenset({"connections", "timeout", "retries", "token_variable"}),
}
"""Options of a plug-in that say how, not what: a change of them redoes nothing."""


@dataclass(frozen=True)
class RunFolder:
    """A recipe and the folder that its steps fill."""

    recipe: Recipe
    out: Path
    _fingerprints: dict[str, str] = field(default_factory=dict, repr=False)

    def steps(self) -> list[Step]:
        """The plan of the recipe, as far as finished steps leave it."""
        return plan(self.recipe, self.verdict())

    def verdict(self) -> Verdict:
        """What finished steps decided about the rest of the plan."""
        return read_verdict(self.recipe, self.out)

    def folder(self, step: str) -> Path:
        """Where a step lies."""
        return self.out / step

    def input_folder(self, step: Step, role: str) -> Path:
        """Where the step that fills `role` lies."""
        return self.folder(step.step(role))

    def manifest(self, step: str) -> Manifest | None:
        """None while the step is not finished."""
        return read_manifest(self.folder(step))

    def weights(self, reference: str) -> WeightsRef:
        """The weights that `step:NAME` or `path:PATH` names; a step that holds an adapter names its
        base too.
        """
        kind, _, name = reference.partition(":")
        if kind == "path":
            return WeightsRef(str(self._outside(name)))
        folder = self.folder(name)
        configuration = folder / "adapter_config.json"
        if not configuration.is_file():
            return WeightsRef(str(folder))
        base = self._base(name, json.loads(configuration.read_text()))
        return WeightsRef(str(base), str(folder))

    def _base(self, step: str, configuration: Mapping[str, str]) -> Path:
        policy, reward = self.recipe.policy, self.recipe.reward
        if step == "reward" and reward is not None and reward.init != "policy":
            return self._outside(reward.init)
        if policy is not None and policy.config is not None:
            return self.folder("policy")
        name = policy.path if policy is not None else configuration["base_model_name_or_path"]
        return self._outside(str(name))

    def _outside(self, name: str) -> Path:
        """Weights that no step makes; `policy.revision` is that of `policy.path` alone."""
        policy = self.recipe.policy
        own = policy is not None and policy.path == name
        return local_folder(name, policy.revision if policy is not None and own else None)

    def content(self, reference: str) -> str:
        """Content hash of an input; raises `StageError` where the step that makes it is not
        finished.
        """
        kind, _, name = reference.partition(":")
        if kind == "path":
            return self._fingerprint(self._outside(name))
        manifest = self.manifest(name)
        if manifest is None:
            raise StageError(f"{self.folder(name)} is not finished, but another step reads it")
        return manifest.content

    def _fingerprint(self, path: Path) -> str:
        known = self._fingerprints.get(str(path))
        if known is None:
            known = self._fingerprints[str(path)] = _fingerprint_path(path)
        return known

    def _content_there(self, place: Path) -> str:
        """Of a model, its tokenizer and chat template count too."""
        found = self._fingerprint(place)
        has_tokenizer = (place / "tokenizer_config.json").is_file()
        return f"{found}+{tokenizer_hash(place)}" if has_tokenizer else found

    def key(self, step: Step) -> dict[str, Json]:
        """Everything that decides the step's content; raises `StageError` while an input is not
        finished.
        """
        key: dict[str, Json] = {
            "format": KEY_FORMAT,
            "section": _deciding(step.section),
            "inputs": {role: self.content(name) for role, name in step.inputs.items()},
            "versions": {name: _version(name) for name in _engines(step)},
        }
        files = {
            path: self._content_there(place)
            for path in _paths(step.section)
            if _local_files(place := Path(path).expanduser())
        }
        if files:
            key["files"] = files
        code = code_hashes(step.section)
        if code:
            key["code"] = code
        if "policy" in step.inputs:
            weights = self.weights(step.inputs["policy"])
            key["tokenizer"] = tokenizer_hash(Path(weights.adapter or weights.base))
        return key


def _fingerprint_path(path: Path) -> str:
    """Content of a file, a checkpoint, or the data files that lie in or begin with `path`."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    if path.is_dir() and any(path.glob("*.safetensors")):
        return folder_fingerprint(path)[:32]
    digest = hashlib.sha256()
    for file in _local_files(path):
        digest.update(str(file.relative_to(path.parent)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:32]


def _local_files(path: Path) -> list[Path]:
    """The files that a `path` of a recipe names here; none for a Hub id."""
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}[.-]*")
    return sorted(f for f in found if f.name.endswith(_CONTENT_SUFFIXES) and not is_note(f))


def _deciding(value: Json, left_out: frozenset[str] = frozenset()) -> Json:
    """A section without what decides no content, in it or below it."""
    if isinstance(value, Mapping):
        left_out |= _NO_CONTENT.get(str(value.get("name")), frozenset())
        kept = {name: each for name, each in value.items() if name not in left_out}
        return {name: _deciding(each, left_out) for name, each in kept.items()}
    return [_deciding(each, left_out) for each in value] if isinstance(value, list) else value


def _paths(value: Json) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            if name == "path" and isinstance(child, str):
                yield child
            else:
                yield from _paths(child)
    elif isinstance(value, list):
        for child in value:
            yield from _paths(child)


def _engines(step: Step) -> list[str]:
    found = {*_VERSIONS.get(step.kind, ())}
    for name in _named(step.section):
        found |= {*_PLUGIN_VERSIONS.get(name, ())}
    return sorted(found)


def _named(value: Json) -> Iterator[str]:
    """The plug-ins of a section, `sft.stop.score` among them, but not those that run elsewhere."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            if key in ("name", "score") and isinstance(child, str):
                if value.get("url") is None:
                    yield child
            else:
                yield from _named(child)
    elif isinstance(value, list):
        for child in value:
            yield from _named(child)


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "absent"
