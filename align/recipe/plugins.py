"""Which sections of a recipe name plug-ins, and their validation against the plug-ins' own config
classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from align import registry
from align.recipe.document import Key, dotted
from align.recipe.problems import Problem, describe, suggest
from align.recipe.sections import (
    Generate,
    PairFrom,
    Plugin,
    Prompts,
    Scoring,
    Section,
    Source,
)
from align.recipe.values import is_list, is_mapping


@dataclass(frozen=True)
class Place:
    """One section with a `name`, as the YAML has it."""

    key: Key
    kind: registry.Kind
    section: type[Section]
    """The class whose own keys stand beside the plug-in's options."""
    value: dict[str, object]

    @property
    def options(self) -> dict[str, object]:
        """The keys that are not the section's own."""
        return {
            key: each for key, each in self.value.items() if key not in self.section.model_fields
        }


def places(recipe: dict[str, object]) -> Iterator[Place]:
    """Every plug-in section of a raw recipe; what is not a mapping is left to the sections' own
    validation.
    """
    yield from _sources(("prompts",), recipe.get("prompts"), Prompts)
    yield from _sources(("sft", "data"), _at(recipe, "sft", "data"))
    made = _at(recipe, "reward", "data")
    if is_mapping(made) and not {"generate", "score", "pair"}.isdisjoint(made):
        yield from _sources(("reward", "data", "prompts"), made.get("prompts"), Prompts)
        yield from _flow(("reward", "data"), made)
    else:
        yield from _sources(("reward", "data"), made)
    yield from _flow((), recipe)
    yield from _one(("select",), "selection", Plugin, recipe.get("select"))
    yield from _one(("train", "objective"), "objective", Plugin, _at(recipe, "train", "objective"))
    yield from _sources(("train", "data"), _at(recipe, "train", "data"))
    evaluate = recipe.get("evaluate")
    if is_mapping(evaluate):
        yield from _sources(("evaluate", "prompts"), evaluate.get("prompts"))
        yield from _flow(("evaluate",), evaluate)


def _flow(key: Key, section: dict[str, object]) -> Iterator[Place]:
    yield from _many((*key, "generate"), "generator", Generate, section.get("generate"))
    yield from _many((*key, "score"), "reward", Scoring, section.get("score"))
    pair = section.get("pair")
    yield from _one((*key, "pair"), "pairing", PairFrom, pair)
    if is_mapping(pair):
        yield from _one((*key, "pair", "judge"), "reward", Plugin, pair.get("judge"))


def _at(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if is_mapping(value) else None
    return value


def _one(key: Key, kind: registry.Kind, section: type[Section], value: object) -> Iterator[Place]:
    if is_mapping(value) and isinstance(value.get("name"), str):
        yield Place(key, kind, section, value)


def _many(key: Key, kind: registry.Kind, section: type[Section], value: object) -> Iterator[Place]:
    for index, item in enumerate(value) if is_list(value) else [(None, value)]:
        yield from _one(key if index is None else (*key, index), kind, section, item)


def _sources(key: Key, value: object, section: type[Section] = Source) -> Iterator[Place]:
    if not is_mapping(value):
        return
    yield Place(key, "dataset", section, value)
    mix = value.get("mix")
    for index, item in enumerate(mix if is_list(mix) else ()):
        yield from _sources((*key, "mix", index), item)


def fill_in(place: Place) -> list[Problem]:
    """Validates the plug-in's options and writes its defaults into the raw section."""
    if place.kind == "dataset" and "name" not in place.value:
        return _extra_source_keys(place)
    name = place.value["name"]
    if not isinstance(name, str):
        return []
    checked = registry.check(place.kind, name, place.options, also=list(place.section.model_fields))
    place.value.update(checked.options)
    return [
        Problem((*place.key, *each.key), each.message, each.remedy) for each in checked.problems
    ]


def _extra_source_keys(place: Place) -> list[Problem]:
    """Without `name` there is no plug-in to have options."""
    valid = place.section.model_fields
    where = dotted(place.key)
    return [
        Problem((*place.key, key), f"is not a key of {where}", suggest(key, valid))
        for key in place.options
    ]


def stop_score(recipe: dict[str, object]) -> list[Problem]:
    """`sft.stop.score` is the name of a reward that needs no options."""
    name = _at(recipe, "sft", "stop", "score")
    if not isinstance(name, str):
        return []
    checked = registry.check("reward", name, {})
    return [
        Problem(
            ("sft", "stop", "score"),
            each.message
            if each.key in ((), ("name",))
            else f"{describe(name)} needs options ({dotted(each.key)})",
            each.remedy
            if each.key in ((), ("name",))
            else "name a reward whose options all have defaults",
        )
        for each in checked.problems[:1]
    ]
