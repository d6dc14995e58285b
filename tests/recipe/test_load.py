"""Recipes that are right: they load, take overrides and come back from `resolved_yaml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.recipe.load import load_recipe, resolved_yaml
from align.recipe.sections import Ema, Made, Scoring, Source, Window
from tests.recipe import design_recipes


def write(tmp_path: Path, text: str, name: str = "x.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", design_recipes.ALL)
def test_every_recipe_of_the_design_loads_and_round_trips(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, design_recipes.ALL[name], f"{name}.yaml"))
    resolved = resolved_yaml(recipe)
    again = load_recipe(write(tmp_path, resolved, "recipe.yaml"))
    assert again == recipe
    assert resolved_yaml(again) == resolved


def test_online_dpo_means_what_it_says(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, design_recipes.ONLINE_DPO))
    assert isinstance(recipe.generate, list)
    assert [each.options["n"] for each in recipe.generate] == [6, 2]
    assert recipe.generate[1].policy == "initial"
    assert recipe.pair is not None and recipe.pair.options["min_margin"] == 0.5
    assert recipe.train is not None and recipe.train.history == Window(window=2, share=0.3)
    assert recipe.train.args == {"learning_rate": 5e-7, "num_train_epochs": 1}
    assert recipe.evaluate is not None and isinstance(recipe.evaluate.score, Scoring)
    assert recipe.evaluate.score.options["path"] == "org/gold-rm"


def test_defaults_of_plugins_are_written_out(tmp_path: Path) -> None:
    text = "policy: {path: a}\nprompts: {path: b}\ngenerate: {name: vllm}\n"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.generate is not None and not isinstance(recipe.generate, list)
    expected = {"n": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "stop": []}
    assert expected.items() <= recipe.generate.options.items()
    assert "max_new_tokens: 256" in resolved_yaml(recipe)


def test_plugins_can_be_left_unimported(tmp_path: Path) -> None:
    text = "policy: {path: a}\nprompts: {path: b}\ngenerate: {name: nowhere.Sampler, m: 3}\n"
    recipe = load_recipe(write(tmp_path, text), plugin_options=False)
    assert recipe.generate is not None and not isinstance(recipe.generate, list)
    assert recipe.generate.options == {"m": 3}


def test_name_defaults_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, design_recipes.SFT, "my.recipe.yaml")
    assert load_recipe(path).run.name == "my"
    assert load_recipe(path, ["run.name=other"]).run.name == "other"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-7", 5e-7),
        ("5.0e-7", 5e-7),
        ("5.e-7", 5e-7),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("20_000", 20000),
        ("010", 10),
        ("0x10", 16),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("none", "none"),
        ('"5e-7"', "5e-7"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1e5f", "1e5f"),
    ],
)
def test_plain_values_are_read_as_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    """YAML 1.1 takes 5e-7 for text, 010 for eight, 12:30 for 750 and no for false."""
    recipe = load_recipe(write(tmp_path, design_recipes.HUMAN_DPO + f"  args: {{x: {text}}}\n"))
    assert recipe.train is not None
    found = recipe.train.args["x"]
    assert found == value and type(found) is type(value)
    again = load_recipe(write(tmp_path, resolved_yaml(recipe)))
    assert again.train is not None and again.train.args["x"] == value


def test_overrides_replace_add_and_reach_into_lists(tmp_path: Path) -> None:
    path = write(tmp_path, design_recipes.ONLINE_DPO)
    recipe = load_recipe(
        path,
        [
            "generate.0.n=4",
            "train.objective.beta=5e-1",
            "train.args.learning_rate=1e-6",
            "train.advantage.normalise=none",
            "train.reference={ema: 0.9}",
            "evaluate=",
            "policy.revision=abc",
            "score=[{name: length}, {name: exact_match, weight: 2}]",
            "score.1.weight=3",
        ],
    )
    assert isinstance(recipe.generate, list) and recipe.generate[0].options["n"] == 4
    assert recipe.train is not None and recipe.train.objective.options["beta"] == 0.5
    assert recipe.train.args["learning_rate"] == 1e-6
    assert recipe.train.reference == Ema(ema=0.9)
    assert recipe.evaluate is None
    assert recipe.policy is not None and recipe.policy.revision == "abc"
    assert isinstance(recipe.score, list) and recipe.score[1].weight == 3


def test_overrides_can_make_a_section(tmp_path: Path) -> None:
    path = write(tmp_path, design_recipes.GENERATE_ONLY)
    recipe = load_recipe(path, ["score.name=length", "run.seed=3"])
    assert isinstance(recipe.score, Scoring) and recipe.score.name == "length"
    assert recipe.run.seed == 3


def test_reward_data_is_a_source_or_made(tmp_path: Path) -> None:
    given = load_recipe(write(tmp_path, design_recipes.REWARD)).reward
    made = load_recipe(write(tmp_path, design_recipes.REWARD_MADE)).reward
    assert given is not None and isinstance(given.data, Source) and given.data.path == "org/prefs"
    assert made is not None and isinstance(made.data, Made) and made.data.pair.name == "max_min"


def test_null_options_survive_resolving(tmp_path: Path) -> None:
    """A plug-in option that is null differs from one that is absent: its default is 0.5."""
    rule = "select: {name: tests.recipe.sample_plugins.Threshold, above: 1, extra: null}\n"
    stored = "generate: {name: stored, path: a}\nscore: {name: length}\n"
    recipe = load_recipe(write(tmp_path, stored + rule))
    again = load_recipe(write(tmp_path, resolved_yaml(recipe)))
    assert again.select is not None and again.select.options["extra"] is None
    assert again.select.options["words"] == ["a"]
