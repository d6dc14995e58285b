"""Rows of a recipe's `data` or `prompts` section: built-in sets, files, folders, the Hub, mixtures
of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from align.data.files import read_file
from align.data.mixture import mix
from align.data.rows import Row, rename_columns
from align.data.splits import (
    check_split_of_file,
    data_files,
    find_files,
    is_data_file,
    stem,
)
from align.errors import DataError, RecipeError
from align.recipe.sections import Source
from align.recipe.split import SplitPart, parse_split
from align.records import derive_seed
from align.registry import build


@runtime_checkable
class BuiltIn(Protocol):
    """A data set that is computed: a frozen dataclass whose fields are its options."""

    def rows(self, split: str, seed: int) -> Iterator[Mapping[str, object]]:
        """The split's rows in an order drawn from `seed`; other splits never hold the same problem,
        whatever the seed.
        """
        ...


@runtime_checkable
class Counted(Protocol):
    """A data set that knows its size; the others are made to be counted."""

    def size(self, split: str) -> int:
        """How many rows `rows` yields for the split."""
        ...


@runtime_checkable
class Sifted(Protocol):
    """A data set made of other rows, some of which it leaves out."""

    def sift(
        self, split: str, seed: int
    ) -> tuple[Sequence[Mapping[str, object]], Mapping[str, int]]:
        """What `rows` yields, and how many were left out for which reason."""
        ...


def read_rows(source: Source, *, seed: int, left_out: Counter[str] | None = None) -> list[Row]:
    """All rows that `source` names, with `columns`, `split`, `shuffle`, `limit` and `mix` applied
    in this order.

    The result depends on the source's content and `seed` alone. A mixture ends where its first part
    runs out (see `mixture.mix`); its parts are shuffled before they are cut. `left_out` counts the
    rows that built-in sets leave out (`left_out_as_tie`). Raises `DataError` with the place of what
    is wrong.
    """
    kinds = {"name": source.name, "path": source.path, "mix": source.mix}
    given = [name for name, value in kinds.items() if value]
    if len(given) != 1:
        what = f"gives {' and '.join(given)}" if given else "gives none of them"
        raise RecipeError(f"a data source needs one of name, path and mix; this one {what}")
    if source.options and source.name is None:
        key = next(iter(source.options))
        raise RecipeError(f"{key!r} is not an option of a data source read from a path", key=key)
    if source.mix is not None:
        parts = [
            read_rows(part, seed=derive_seed(seed, "mix", index), left_out=left_out)
            for index, part in enumerate(source.mix)
        ]
        # Cut first, then shuffle: a limit must not change the shares.
        rows = mix(parts, [part.weight for part in source.mix], source.limit)
        rows = [rename_columns(row, source.columns) for row in rows]
        return _shuffled(rows, seed, "mix") if source.shuffle else rows
    if source.name is not None:
        return _built_in(source, source.name, seed, left_out)
    path = cast(str, source.path)
    rows = [rename_columns(row, source.columns) for row in _stored(source, path)]
    if not rows:
        raise DataError(f"{path} has no rows in the split {source.split!r}")
    rows = _shuffled(rows, seed, name_of(source)) if source.shuffle else rows
    return rows if source.limit is None else rows[: source.limit]


def name_of(source: Source) -> str:
    """What its prompts are called in records: a built-in's name, a file's stem, a folder's name or
    the Hub id.
    """
    if source.name is not None:
        return source.name
    if source.path is None:
        return "mix"
    path = Path(source.path)
    if is_data_file(path):
        return stem(path)
    return source.path if _is_hub_id(source.path) else path.name


def count_built_in(source: Source, name: str, *, seed: int) -> int:
    """How many rows `read_rows` gives of the built-in set `name`; raises what it raises."""
    data = _data_set(source, name)
    if not isinstance(data, Counted):
        return len(_built_in(source, name, seed))
    places = [part.bounds(data.size(part.name)) for part in parse_split(source.split)]
    total = sum(end - first for first, end in places)
    return total if source.limit is None else min(total, source.limit)


def _data_set(source: Source, name: str) -> BuiltIn:
    data = build("dataset", {"name": name, **source.options})
    if not isinstance(data, BuiltIn):
        raise RecipeError(f'"{name}" is not a data set: it has no `rows(split, seed)`', key="name")
    return data


def _built_in(
    source: Source, name: str, seed: int, left_out: Counter[str] | None = None
) -> list[Row]:
    data = _data_set(source, name)
    found: list[Row] = []
    for part in parse_split(source.split):
        # A built-in's order is drawn from the seed already; `limit` keeps endless splits from being
        # made whole.
        stop = source.limit if part.start is None and part.end is None else None
        if isinstance(data, Sifted):
            sifted, others = data.sift(part.name, seed)
            values = list(sifted[:stop])
            if left_out is not None:
                left_out.update({f"left_out_as_{why}": n for why, n in others.items() if n})
        else:
            values = list(islice(data.rows(part.name, seed), stop))
        first, end = part.bounds(len(values))
        found += [
            Row(value, name, f"{name}[{part.name}]:{number}")
            for number, value in enumerate(values[first:end], start=first + 1)
        ]
    rows = [rename_columns(row, source.columns) for row in found]
    return rows if source.limit is None else rows[: source.limit]


def local_files(name: str, split: str) -> list[tuple[SplitPart, list[Path]]] | None:
    """For each part of the split the files that hold it; None where `name` is on the Hub. Raises
    `DataError` where a part has none.
    """
    path = Path(name).expanduser()
    if not (path.exists() or is_data_file(path) or not _is_hub_id(name) or data_files(path)):
        return None
    found: list[tuple[SplitPart, list[Path]]] = []
    for part in parse_split(split):
        if is_data_file(path) and not path.is_dir():
            if not path.is_file():
                raise DataError(
                    f"there is no file {name}; check `path`, which is relative to where you run"
                )
            check_split_of_file(path, part.name)
            found.append((part, [path]))
        else:
            found.append((part, find_files(path, part.name)))
    return found


def _stored(source: Source, name: str) -> list[Row]:
    parts = local_files(name, source.split)
    if parts is None:
        return _from_hub(source, name)
    rows: list[Row] = []
    for part, files in parts:
        found = [row for file in files for row in read_file(file, name_of(source))]
        first, end = part.bounds(len(found))
        rows += found[first:end]
    return rows


def _from_hub(source: Source, name: str) -> list[Row]:
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        data = load_dataset(name, source.config, split=source.split, revision=source.revision)
    except (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise DataError(
            f"{name} is no file or folder here and could not be had from the Hub ({cause}); check "
            "the name, `split`, "
            "`config`, the network and `hf auth whoami`, or give a local file"
        ) from error
    if not isinstance(data, Dataset):
        raise DataError(f"{name}: the split {source.split!r} is not one table of rows")
    return [
        Row(cast(Mapping[str, object], values), name, f"{name}[{source.split}]:{number}")
        for number, values in enumerate(data, start=1)
    ]


def _shuffled(rows: list[Row], seed: int, label: str) -> list[Row]:
    order = list(rows)
    random.Random(derive_seed(seed, "shuffle", label)).shuffle(order)
    return order


def _is_hub_id(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1
