"""The JSON schema of recipes for editors, plug-in options included. `python -m align.recipe.schema`
rewrites the file.

Sections come from pydantic; the options of each plug-in follow from its `name` by if/then, so that
an editor proposes and checks the keys of the one that is named.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import json
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from align import registry
from align.recipe.sections import Recipe
from align.recipe.values import is_list, is_mapping

Schema: TypeAlias = dict[str, object]

SHIPPED = Path(__file__).parent.parent / "recipe.schema.json"

_KINDS: dict[str, registry.Kind] = {
    "Generate": "generator",
    "Scoring": "reward",
    "PairFrom": "pairing",
    "Source": "dataset",
    "Prompts": "dataset",
}
"""Sections whose name is always of one kind. `Plugin` itself stands in three places, for three
kinds.
"""

_PLUGIN_PLACES: dict[tuple[str, str], registry.Kind] = {
    ("Recipe", "select"): "selection",
    ("Train", "objective"): "objective",
    ("PairFrom", "judge"): "reward",
}


def make_schema() -> Schema:
    """The schema of a recipe; imports every plug-in."""
    schema: Schema = Recipe.model_json_schema()
    definitions = _mapping(schema["$defs"])
    plain = _mapping(definitions.pop("Plugin"))
    for (owner, place), kind in _PLUGIN_PLACES.items():
        name = f"Plugin-{kind}"
        definitions[name] = _with_options(copy.deepcopy(plain), kind, definitions)
        section = schema if owner == "Recipe" else _mapping(definitions[owner])
        _redirect(_mapping(_mapping(section["properties"])[place]), f"#/$defs/{name}")
    for name, kind in _KINDS.items():
        definitions[name] = _with_options(_mapping(definitions[name]), kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "align recipe",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def render() -> str:
    """The text of the shipped file."""
    return json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n"


def _mapping(value: object) -> Schema:
    if not is_mapping(value):
        raise TypeError(f"pydantic's schema has {value!r} where a mapping was expected")
    return value


def _redirect(place: object, target: str) -> None:
    """Points the references to `Plugin` inside `place` to `target`."""
    if is_mapping(place):
        if place.get("$ref") == "#/$defs/Plugin":
            place["$ref"] = target
        for each in place.values():
            _redirect(each, target)
    elif is_list(place):
        for each in place:
            _redirect(each, target)


def _with_options(section: Schema, kind: registry.Kind, definitions: Schema) -> Schema:
    """The section with one if/then a plug-in; a dotted name may have any options."""
    own = _mapping(section["properties"])
    cases: list[object] = []
    for name in sorted(registry.TABLES[kind]):
        config = registry.plugin_class(kind, name)
        properties, required = _options(config, definitions)
        then: Schema = {
            "description": inspect.getdoc(config) or "",
            "properties": dict.fromkeys(own, True) | properties,
            "additionalProperties": False,
        }
        then |= {"required": required} if required else {}
        named: Schema = {"properties": {"name": {"const": name}}, "required": ["name"]}
        cases.append({"if": named, "then": then})
    if kind == "dataset":
        unnamed: Schema = {
            "not": {"required": ["name"], "properties": {"name": {"type": "string"}}}
        }
        cases.append(
            {
                "if": unnamed,
                "then": {"properties": dict.fromkeys(own, True), "additionalProperties": False},
            }
        )
    names: list[object] = [
        {"enum": sorted(registry.TABLES[kind])},
        {"type": "string", "pattern": r"\."},
    ]
    names += [{"type": "null"}] if kind == "dataset" else []
    description = _mapping(own.get("name", {})).get(
        "description", f"A {kind} of align, or a dotted name."
    )
    properties = own | {"name": {"anyOf": names, "description": description}}
    return section | {"properties": properties, "additionalProperties": True, "allOf": cases}


def _options(config: type, definitions: Schema) -> tuple[Schema, list[str]]:
    """The schema of each field of a plug-in with the text below it, and the names without a
    default.
    """
    schema = _mapping(TypeAdapter(config).json_schema(ref_template="#/$defs/{model}"))
    definitions |= _mapping(schema.get("$defs", {}))
    properties = _mapping(schema.get("properties", {}))
    texts = field_texts(config)
    for field in fields(config):
        if field.name in properties and field.name in texts:
            properties[field.name] = _mapping(properties[field.name]) | {
                "description": texts[field.name]
            }
    required = schema.get("required", [])
    return properties, [str(name) for name in required] if is_list(required) else []


def field_texts(config: type) -> dict[str, str]:
    """The string that stands right below each field of a class: what the option means."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        match below:
            case ast.Expr(value=ast.Constant(value=str(text))):
                found[field.target.id] = inspect.cleandoc(text)
            case _:
                pass
    return found


if __name__ == "__main__":
    SHIPPED.write_text(render(), encoding="utf-8")
    print(f"wrote {SHIPPED}")
