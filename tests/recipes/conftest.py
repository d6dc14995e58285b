"""Runs the small twin of a published recipe in this process: the bodies of its stages, in order."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from align.launch import init
from align.recipe.load import load_recipe
from align.stages.engine import Engine
from align.stages.folder import RunFolder
from align.stages.generating import generate
from align.stages.importing import import_human_data
from align.stages.prompting import take_stored_prompts
from align.stages.sampling import pair, score
from align.stages.steps import Step
from align.stages.training import keep, policy, sft
from tests.one_process import run_in_one_process

RECIPES = Path(__file__).parents[2] / "recipes"
BODIES: Mapping[str, Callable[[RunFolder, Step], object]] = {
    "init": lambda run, step: init.work(run, [step], Namespace()),
    "import": import_human_data,
    "prompts": take_stored_prompts,
    "generate": lambda run, step: generate(run, [step], Engine(run.out / "engine.log")),
    "score": score,
    "pair": pair,
    "sft": lambda run, step: keep(run, step, sft(run, step)),
    "policy": lambda run, step: keep(run, step, policy(run, step)),
}


@pytest.fixture
def run_loop(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunFolder]:
    """`run_loop(family, name, *settings)`: the folder of a finished run of a twin that samples."""

    def run_all(family: str, name: str, *settings: str) -> RunFolder:
        path = RECIPES / family / f"{name}.yaml"
        recipe = load_recipe(path, [*local_paths(path.read_text(), shared), *settings])
        run = RunFolder(recipe, tmp_path / name)
        run_in_one_process(run, monkeypatch)
        return run

    return run_all


@pytest.fixture
def run_twin(shared: Path, tmp_path: Path) -> Callable[..., RunFolder]:
    """`run_twin(family, *settings)`: the folder of a finished `recipes/FAMILY/tiny.yaml`.

    The paths under `local/` in the recipe become those of the shared checkpoint and data.
    """

    def run_steps(family: str, *settings: str) -> RunFolder:
        path = RECIPES / family / "tiny.yaml"
        recipe = load_recipe(path, [*local_paths(path.read_text(), shared), *settings])
        run = RunFolder(recipe, tmp_path / family)
        for step in run.steps():
            BODIES[step.kind](run, step)
        return run

    return run_steps


def local_paths(recipe: str, shared: Path) -> list[str]:
    """The overrides that the head of a twin asks its user for."""
    values = yaml.safe_load(recipe)
    return [
        f"{key}={shared / ('models' if key == 'policy.path' else 'data') / Path(path).name}"
        for key, path in _paths(values)
    ]


def _paths(section: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys of the paths under `local/`."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        elif isinstance(value, str) and value.startswith("local/"):
            yield f"{prefix}{key}", value
