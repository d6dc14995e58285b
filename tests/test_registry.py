"""Plug-ins by name: the tables are true, options are strict, errors name the nearest."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest

import align
from align import registry
from align.registry import TABLES, Kind, PluginError, build, check, plugin_class
from tests.recipe.sample_plugins import Threshold

THRESHOLD = "tests.recipe.sample_plugins.Threshold"
NAMED = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_every_name_of_the_tables_is_a_frozen_dataclass(kind: Kind, name: str) -> None:
    found = plugin_class(kind, name)
    assert is_dataclass(found)
    # What `dataclass(frozen=True)` puts in place.
    assert "__delattr__" in vars(found) and "__setattr__" in vars(found)


def test_build_fills_in_defaults_and_takes_lists_for_tuples() -> None:
    spec = {"name": THRESHOLD, "above": 1, "words": ["b", "c"], "weights": {"a": 2}}
    expected = Threshold(above=1.0, words=("b", "c"), weights={"a": 2.0})
    assert build("selection", spec) == expected
    assert align.build("selection", spec | {"words": ("b", "c")}) == expected


def test_check_returns_all_options_as_yaml_has_them() -> None:
    checked = check("selection", THRESHOLD, {"above": 1})
    assert checked.problems == ()
    assert checked.options == {
        "above": 1,
        "keep": 4,
        "mode": "hard",
        "words": ["a"],
        "weights": {},
        "extra": 0.5,
    }


def test_check_fills_in_the_defaults_of_a_nested_config() -> None:
    checked = check("objective", "reinforce", {"kl": {"weight": 1}})
    assert checked.problems == ()
    assert checked.options == {
        "aggregation": "sequence_sum",
        "constant": None,
        "kl": {"weight": 1.0, "estimator": "k3+", "off_policy": False},
        "entropy": 0.0,
    }


def test_module_and_class_may_be_parted_by_a_colon() -> None:
    assert plugin_class("selection", "tests.recipe.sample_plugins:Threshold") is Threshold


@pytest.mark.parametrize(
    ("spec", "key", "says", "remedy"),
    [
        ({}, "name", "is required", "best_of_n"),
        ({"name": 3}, "name", "is required", "best_of_n"),
        ({"name": "best_of"}, "selection.name", "not a known selection", '"best_of_n"'),
        ({"name": THRESHOLD}, "selection.above", "is required", 'add "above"'),
        (
            {"name": THRESHOLD, "above": "1"},
            "selection.above",
            "must be a number",
            "write it without quotes",
        ),
        ({"name": THRESHOLD, "above": True}, "selection.above", "must be a number, not true", ""),
        ({"name": THRESHOLD, "above": 1, "kep": 3}, "selection.kep", "not an option of", '"keep"'),
        ({"name": THRESHOLD, "above": 1, "keep": 1.5}, "selection.keep", "whole number", "change"),
        ({"name": THRESHOLD, "above": 1, "keep": 0}, "selection", "keep must be at least 1", ""),
        ({"name": THRESHOLD, "above": 1, "words": "b"}, "selection.words", "a list", "[b]"),
        ({"name": THRESHOLD, "above": 1, "words": [1]}, "selection.words.0", "be text", "quotes"),
        (
            {"name": THRESHOLD, "above": 1, "extra": "x"},
            "selection.extra",
            'must be a number, not the text "x"',
            "change",
        ),
    ],
)
def test_wrong_specs_are_refused(spec: dict[str, object], key: str, says: str, remedy: str) -> None:
    with pytest.raises(PluginError) as caught:
        build("selection", spec)
    assert caught.value.key == key
    assert says in caught.value.message
    assert remedy in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ({"name": "hinge"}, "write {name: dpo, loss: hinge}"),
        ({"name": "forward_kl"}, "write {name: dpo, divergence: forward_kl}"),
        ({"name": "dpo", "loss": "simpo"}, "simpo is an objective of its own: write {name: simpo}"),
        ({"name": "dpo", "loss": "hing"}, 'did you mean "hinge"?'),
        ({"name": "simp"}, 'did you mean "simpo"?'),
    ],
)
def test_losses_and_objectives_are_told_apart(spec: dict[str, object], remedy: str) -> None:
    with pytest.raises(PluginError) as caught:
        build("objective", spec)
    assert caught.value.remedy == remedy


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(PluginError, match='did you mean "reward"'):
        registry.build("rewards", {"name": "length"})  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_import_errors_are_told(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match=r"cannot be imported: No module named 'nowhere'"):
        build("selection", {"name": "nowhere.rules.Mine"})
    with pytest.raises(PluginError, match="has no class Mine"):
        build("selection", {"name": "tests.recipe.sample_plugins.Mine"})


def test_public_interface_is_complete_and_lazy() -> None:
    from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs
    from align.recipe.load import load_recipe

    assert align.build is build
    assert align.load_recipe is load_recipe
    assert (align.PolicyBatch, align.PolicyOutputs) == (PolicyBatch, PolicyOutputs)
    assert align.LossOutput is LossOutput
    assert align.records.Prompt.of("a").prompt_id == align.records.Prompt.of("a").prompt_id
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        align.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
