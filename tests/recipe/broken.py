"""What the broken recipes share: how one is written down, and what its error must say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from align.errors import RecipeError
from align.recipe.load import load_recipe

PREFS = "train: {data: {path: b}, objective: {name: dpo}, global_batch_size: 8"
POLICY = "policy: {path: a}\n"
SAMPLES = POLICY + "prompts: {path: b}\ngenerate: {name: vllm, n: 4}\n"
SCORED = SAMPLES + "score: {name: length}\n"
PAIRED = SCORED + "pair: {name: max_min}\n"
STORED = "generate: {name: stored, path: a}\n"
TRAIN = "train: {objective: {name: dpo}, global_batch_size: 8"
TOPR = SCORED + "train: {objective: {name: topr}, global_batch_size: 8"
PLUGINS = "tests.recipe.sample_plugins"


@dataclass(frozen=True)
class Broken:
    """What is wrong, and what the one error must say; `line` None means an override's."""

    text: str
    line: int | None
    key: str | None
    says: str
    remedy: str
    overrides: tuple[str, ...] = ()


def one(text: str, line: int | None, key: str | None, says: str, remedy: str, *sets: str) -> Broken:
    return Broken(text, line, key, says, remedy, sets)


def check_error(broken: Broken, tmp_path: Path) -> None:
    """One mistake is one error, with file, line, key and what to do."""
    path = tmp_path / "x.yaml"
    path.write_text(broken.text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, broken.overrides)
    error = caught.value
    assert [str(each) for each in error.errors] == [str(error)], "one mistake is one error"
    assert (error.line, error.key) == (broken.line, broken.key), str(error)
    assert broken.says in error.message
    assert broken.remedy in (error.remedy or "")
    assert error.exit_status == 2
    if broken.line is not None:
        assert str(error).startswith(f"{path}:{broken.line}: ")
    else:
        assert str(error).startswith("--set ")
