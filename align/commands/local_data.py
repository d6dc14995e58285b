"""Data that lie here, looked at as the run will read them: files, splits, columns and rows.

What is small is read and converted whole, just as its step does it; of what is large the first rows
are. The Hub is not asked and no tokenizer is loaded, so rows that are too long stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from align.data.convert import (
    kind_of,
    to_demonstrations,
    to_labelled,
    to_preferences,
    to_prompts,
)
from align.data.files import read_file
from align.data.rows import Row, rename_columns
from align.data.sources import local_files, name_of, read_rows
from align.data.splits import data_files
from align.errors import DataError
from align.generation.stored import sample_folders
from align.recipe.document import Key
from align.recipe.environment import nested_paths
from align.recipe.parts import generators, sources
from align.recipe.problems import Problem
from align.recipe.sections import Made, Recipe, Source

LARGE = 4 << 20
"""Bytes of files above which only the first rows are read: all rows of as many take seconds."""
FIRST = 1_000
"""Rows that are read of large files."""

Convert = Callable[[list[Row]], Mapping[str, int]]
"""What becomes of rows in the step that reads them: `kept`, and reasons for the others. Raises the
fault of a row that the step cannot use.
"""


def data_problems(recipe: Recipe) -> list[Problem]:
    """What the steps that read the recipe's local data would refuse."""
    read = [(key, source, _converter(key)) for key, source in sources(recipe) if "mix" not in key]
    read += [(key, source, _completions) for key, source in _stored(recipe)]
    found = [problem for each in read for problem in _problems(*each, recipe.run.seed)]
    return found or [*_all_held_out(recipe)]


def _problems(key: Key, source: Source, convert: Convert | None, seed: int) -> list[Problem]:
    """Without `convert`, of a part of a mix, the rows are read and no more: the mix may leave some
    of them out.
    """
    parts = [
        problem
        for index, part in enumerate(source.mix or ())
        for problem in _problems((*key, "mix", index), part, None, seed)
    ]
    if parts:
        return parts
    place, _ = next(nested_paths(key, {"path": source.path, **source.options}), (key, ""))
    try:
        size = _size(source)
        if size is None:
            return []
        rows = read_rows(source, seed=seed) if size <= LARGE else _first_rows(source)
        if convert is None or not rows:
            return []
        counts = convert(rows)
    except DataError as error:
        return [Problem(place, f": {error}")]
    if counts["kept"] or size > LARGE:
        return []
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    message = f": nothing is left of what {name_of(source)} holds ({said})"
    return [Problem(place, message, "look at its rows")]


def _size(source: Source) -> int | None:
    """Bytes of its files; None where some are on the Hub, or its rows are computed."""
    if source.mix is not None:
        sizes = [_size(part) for part in source.mix]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    if source.path is not None:
        found = local_files(source.path, source.split)
        files = None if found is None else [file for _, part in found for file in part]
    else:
        places = [Path(path).expanduser() for _, path in nested_paths((), source.options)]
        found = [(place, *place.rglob("*"), *data_files(place)) for place in places]
        files = [file for each in found for file in each if file.is_file()] or None
    return None if files is None else sum(file.stat().st_size for file in files)


def _first_rows(source: Source) -> list[Row]:
    """The first rows of a large path; none where others may be taken: those cannot be told without
    reading all.
    """
    found = local_files(source.path, source.split) if source.path is not None else None
    files = [file for _, part in found or () for file in part]
    rows = chain.from_iterable(read_file(file, name_of(source)) for file in files)
    first = [rename_columns(row, source.columns) for row in islice(rows, FIRST)]
    is_whole = all(part.start is None and part.end is None for part, _ in found or ())
    return first if is_whole and source.limit is None else []


def _converter(key: Key) -> Convert:
    match key:
        case ("sft", *_):
            return lambda rows: to_demonstrations(rows).counts
        case ("reward", "data"):
            return lambda rows: to_preferences(rows).counts
        case ("train", *_):
            return _human
        case _:
            return lambda rows: to_prompts(rows).counts


def _human(rows: list[Row]) -> Mapping[str, int]:
    """As `stages.importing` reads them: the first row says what the rows are."""
    match kind_of(rows[0]):
        case "preference":
            return to_preferences(rows).counts
        case "labelled":
            return to_labelled(rows).counts
        case "demonstration" | "dialogue" | "prompt":
            return to_demonstrations(rows).counts


def _stored(recipe: Recipe) -> Iterator[tuple[Key, Source]]:
    """The rows of text that `stored` reads; samples of a run have their own manifests."""
    made = recipe.reward.data if recipe.reward else None
    found = generators(recipe.generate)
    if isinstance(made, Made):
        found += generators(made.generate, ("reward", "data", "generate"))
    for key, sampler in found:
        if sampler.name == "stored":
            named = {name: value for name, value in sampler.options.items() if name != "n"}
            source = Source.model_validate({**named, "shuffle": False})
            if not sample_folders(Path(source.path or "").expanduser()):
                yield key, source


def _completions(rows: list[Row]) -> Mapping[str, int]:
    from align.generation.stored_rows import completions  # imports transformers

    return {"read": len(rows), "kept": sum(1 for _ in completions(rows))}


def _all_held_out(recipe: Recipe) -> Iterator[Problem]:
    """Prompts that are evaluated on are never trained on."""
    prompts, evaluate = recipe.prompts, recipe.evaluate
    if prompts is None or evaluate is None or recipe.generate is None:
        return
    sizes = [_size(source) for source in (prompts, evaluate.prompts)]
    if any(size is None or size > LARGE for size in sizes):
        return
    ours, held_out = (
        {prompt.prompt_id for prompt in to_prompts(read_rows(source, seed=recipe.run.seed)).rows}
        for source in (prompts, evaluate.prompts)
    )
    if ours <= held_out:
        message = "holds all prompts of the loop, and none that is evaluated on is trained on"
        yield Problem(("evaluate", "prompts"), message, "give others, e.g. by split: train[:10%]")
