"""The parts of a recipe with their keys: data sources, samplers, reward sources, whether one or
several.
"""

from __future__ import annotations

from collections.abc import Iterator

from align.recipe.document import Key
from align.recipe.sections import Generate, Made, PairFrom, Plugin, Recipe, Scoring, Source


def sources(recipe: Recipe) -> Iterator[tuple[Key, Source]]:
    """Every data source with its key, mixtures and their parts included."""
    made = recipe.reward.data if recipe.reward else None
    found: list[tuple[Key, Source | None]] = [
        (("prompts",), recipe.prompts),
        (("sft", "data"), recipe.sft.data if recipe.sft else None),
        (("reward", "data"), made if isinstance(made, Source) else None),
        (("reward", "data", "prompts"), made.prompts if isinstance(made, Made) else None),
        (("train", "data"), recipe.train.data if recipe.train else None),
        (("evaluate", "prompts"), recipe.evaluate.prompts if recipe.evaluate else None),
    ]
    for key, source in found:
        if source is not None:
            yield from _with_parts(key, source)


def _with_parts(key: Key, source: Source) -> Iterator[tuple[Key, Source]]:
    yield key, source
    for index, part in enumerate(source.mix or ()):
        yield from _with_parts((*key, "mix", index), part)


def generators(
    value: Generate | list[Generate] | None, key: Key = ("generate",)
) -> list[tuple[Key, Generate]]:
    """The samplers of a section with their keys, whether it holds one or several."""
    if isinstance(value, list):
        return [((*key, index), each) for index, each in enumerate(value)]
    return [] if value is None else [(key, value)]


def scorings(
    value: Scoring | list[Scoring] | None, key: Key = ("score",)
) -> list[tuple[Key, Scoring]]:
    """The reward sources of a section with their keys."""
    if isinstance(value, list):
        return [((*key, index), each) for index, each in enumerate(value)]
    return [] if value is None else [(key, value)]


def rewards(recipe: Recipe) -> list[tuple[Key, Plugin]]:
    """Every reward that the recipe names, judges too, with its key."""
    made = recipe.reward.data if recipe.reward else None
    evaluate = recipe.evaluate
    found: list[tuple[Key, Plugin]] = [*scorings(recipe.score)]
    found += _judges(recipe.pair, ("pair",))
    if isinstance(made, Made):
        found += scorings(made.score, ("reward", "data", "score"))
        found += _judges(made.pair, ("reward", "data", "pair"))
    if evaluate is not None:
        found += scorings(evaluate.score, ("evaluate", "score"))
    return found


def _judges(pair: PairFrom | None, key: Key) -> list[tuple[Key, Plugin]]:
    return [] if pair is None or pair.judge is None else [((*key, "judge"), pair.judge)]


def has_stored_only(value: Generate | list[Generate] | None) -> bool:
    """True where every sampler reads stored samples, which needs no policy and no prompts."""
    found = generators(value)
    return bool(found) and all(each.name == "stored" for _, each in found)
