"""The shipped JSON schema is the generated one, and an editor that uses it helps."""

from __future__ import annotations

import json

from align.recipe.schema import SHIPPED, field_texts, make_schema, render
from align.registry import TABLES, Kind
from tests.recipe.sample_plugins import Threshold


def cases(schema: dict[str, object], name: str) -> dict[str, dict[str, object]]:
    """Plug-in name -> what holds for it in the definition called `name`."""
    definition = json.loads(json.dumps(schema))["$defs"][name]
    return {
        each["if"]["properties"]["name"]["const"]: each["then"]
        for each in definition["allOf"]
        if "const" in each["if"].get("properties", {}).get("name", {})
    }


def test_shipped_schema_is_the_generated_one() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == render(), "run python -m align.recipe.schema"


def test_every_plugin_has_its_options() -> None:
    schema = make_schema()
    homes: dict[str, Kind] = {
        "Generate": "generator",
        "Scoring": "reward",
        "PairFrom": "pairing",
        "Source": "dataset",
        "Prompts": "dataset",
        "Plugin-selection": "selection",
        "Plugin-objective": "objective",
        "Plugin-reward": "reward",
    }
    for name, kind in homes.items():
        assert set(cases(schema, name)) == set(TABLES[kind]), name
    dpo = cases(schema, "Plugin-objective")["dpo"]
    assert dpo["additionalProperties"] is False
    properties = dpo["properties"]
    assert isinstance(properties, dict)
    assert {"name", "beta", "loss"} <= set(properties)
    assert properties["beta"]["type"] == "number" and properties["beta"]["description"]


def test_sections_keep_their_own_keys_beside_the_options() -> None:
    length = cases(make_schema(), "Scoring")["length"]["properties"]
    assert isinstance(length, dict) and {"name", "weight", "label"} <= set(length)


def test_texts_below_fields_are_read() -> None:
    assert field_texts(Threshold) == {"above": "Scores at or below are dropped."}
