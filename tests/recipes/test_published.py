"""Recipes of published models: they check, say what their sources say, and have true twins."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.commands.plan import make_plan
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(RECIPES.rglob("*.yaml"))
FAMILIES = {"zephyr": ("sft", "dpo"), "simpo": ("llama3_base",), "kto": ("zephyr",)} | {
    "tulu3": ("sft", "dpo")
}


def recipe(family: str, name: str) -> Recipe:
    return load_recipe(RECIPES / family / f"{name}.yaml")


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_is_valid_and_has_a_plan(path: Path) -> None:
    assert make_plan(load_recipe(path)).steps
    assert (path.parent / "README.md").read_text().count(path.name), "its README names it"


def test_every_published_recipe_is_found() -> None:
    names = {f"{path.parent.name}/{path.stem}" for path in ALL}
    assert len(names) >= 17
    assert {f"{family}/tiny" for family in FAMILIES} <= names


@pytest.mark.parametrize(
    ("name", "beta", "ratio", "rate"),
    [
        ("mistral_base", 2.0, 0.8, 3e-7),
        ("mistral_instruct", 2.5, 0.1, 5e-7),
        ("llama3_base", 2.0, 0.5, 6e-7),
        ("llama3_instruct", 2.5, 0.55, 1e-6),
        ("llama3_instruct_v2", 10.0, 0.3, 1e-6),
        ("gemma2_it", 10.0, 0.5, 8e-7),
    ],
)
def test_simpo_settings_are_the_authors_table(
    name: str, beta: float, ratio: float, rate: float
) -> None:
    train = recipe("simpo", name).train
    assert train is not None and train.global_batch_size == 128
    options = train.objective.options
    assert (options["beta"], options["gamma_beta_ratio"]) == (beta, ratio)
    assert train.args["learning_rate"] == rate


@pytest.mark.parametrize("family", FAMILIES)
def test_twin_trains_what_its_recipes_train(family: str) -> None:
    """The same stages, objective, loss, reference and template; only sizes and rates differ."""
    twin, published = recipe(family, "tiny"), [recipe(family, name) for name in FAMILIES[family]]
    assert (twin.sft is not None) == any(one.sft is not None for one in published)
    (train,) = [one.train for one in published if one.train is not None]
    assert twin.train is not None
    for option in ("name", "loss"):
        ours, theirs = (section.objective.model_dump() for section in (twin.train, train))
        assert ours.get(option) == theirs.get(option)
    assert twin.train.reference == train.reference
