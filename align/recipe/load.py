"""Recipes from YAML: everything that is wrong is reported at once, each with file, line, key and
remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from align.errors import RecipeError, RecipeErrors
from align.recipe import plugins, rules
from align.recipe.document import Document, Key, Loader, read_document
from align.recipe.numbers import infinite_numbers
from align.recipe.overrides import apply_override
from align.recipe.problems import Problem, explain
from align.recipe.sections import Recipe, Section
from align.recipe.values import is_list, is_mapping


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    plugin_options: bool = True,
    environment: bool = False,
    runs: bool = True,
    began: Callable[[Recipe], bool] = lambda recipe: False,
    also: Callable[[Recipe], Sequence[Problem]] = lambda recipe: (),
) -> Recipe:
    """The validated recipe in `path`, with `--set` overrides (`train.objective.beta=0.2`) applied
    in order.

    Defaults of plug-ins are filled in, and `run.name` (the file's), so that the result says all
    that will happen. `plugin_options=False` leaves plug-ins unimported: quick, for recipes that
    were validated before (a run's own). `environment=True` also checks what needs the installed
    libraries and the disk: `args` and `peft` keys, local files. `runs=False` is for a recipe of
    which one section is used alone (a `score` without samples): the rules between sections are left
    out. Where `began` says that a run began with this very recipe, the keys were found right then,
    and the libraries stay unimported. `also` looks further where nothing is wrong so far. Raises
    `RecipeError` (located; `.errors` lists all of them).
    """
    document = read_document(path)
    for override in overrides:
        apply_override(document, override)
    problems: list[Problem] = []
    infinite = list(infinite_numbers(document.value))
    if plugin_options:
        for place in plugins.places(document.value):
            problems += plugins.fill_in(place)
        problems += plugins.stop_score(document.value)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        problems = explain(error, document.value, Recipe) + problems
    if recipe is not None:
        recipe = _named(recipe, Path(path))
    if recipe is not None and runs:
        problems += rules.check_rules(recipe, plugin_classes=plugin_options)
    if recipe is not None and environment:
        from align.recipe.environment import check_environment

        libraries = bool(problems) or not began(recipe)
        problems += check_environment(recipe, libraries=libraries)
    if recipe is not None and not problems and not infinite:
        problems += also(recipe)
    if infinite:
        # One mistake is one error: what else is said of these keys follows from it.
        said = {each.key for each in infinite}
        problems = infinite + [each for each in problems if not _speaks_of(each.key, said)]
    if problems or recipe is None:
        raise _located(document, problems)
    return recipe


def _named(recipe: Recipe, path: Path) -> Recipe:
    if recipe.run.name is not None:
        return recipe
    run = recipe.run.model_copy(update={"name": path.name.split(".")[0]})
    return recipe.model_copy(update={"run": run})


def _located(document: Document, problems: list[Problem]) -> RecipeError:
    found = [
        document.error(each.key, each.message, each.remedy) for each in dict.fromkeys(problems)
    ]
    # Overrides first: they were typed last. Then by line.
    found.sort(key=lambda error: error.line or 0)
    return found[0] if len(found) == 1 else RecipeErrors(found)


def _speaks_of(key: Key, others: set[Key]) -> bool:
    """True where one of the keys stands at this one or below it: a class that checks its options
    together names its section.
    """
    return any(other[: len(key)] == key for other in others)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or our reader would take for something else."""


for _first, _resolvers in Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        # Untyped in PyYAML's stubs.
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])  # pyright: ignore[reportUnknownMemberType]


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe with every default written out; loading it gives an equal `Recipe`."""
    return yaml.dump(_plain(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _plain(value: object) -> object:
    if isinstance(value, Section):
        defaults = {name: info.default for name, info in type(value).model_fields.items()}
        kept = {
            name: _plain(each)
            for name, each in value
            # An absent section is said by its absence; a plug-in's option that is null is kept.
            if not (each is None and name in defaults and defaults[name] is None)
        }
        return {"name": kept.pop("name"), **kept} if "name" in kept else kept
    if is_mapping(value):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if is_list(value) else value
