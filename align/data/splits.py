"""The files of a folder that a split names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from align.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_USUAL = {"train", "training", "dev", "valid", "validation", "val", "eval", "test"}
"""Words in a file's name that say which split it holds, even where another one is asked for."""
_NOTES = {
    *("manifest.json", "result.json", "pending.json", "progress.json", "failure.json"),
    "report.json",
}
_MARKS = ("manifest.json", "pending.json", "recipe.yaml")


def find_files(path: Path, split: str) -> list[Path]:
    """The data files at `path` that hold `split`, in the order of their names.

    `path` is a folder, or a folder and the beginning of names in it (`data/hh_harmless` for
    `data/hh_harmless.train.jsonl.gz`). A file belongs to the splits that its name spells between
    dots, dashes and underscores, or to the sub-folder it lies in; files that name no split are
    `train`. Raises `DataError` where there are none.
    """
    sub_folder = path / split
    if sub_folder.is_dir():
        files = data_files(sub_folder)
        if files:
            return files
    files = data_files(path)
    if not files:
        raise DataError(f"{path} holds no data files; expected {', '.join(SUFFIXES)}")
    wanted = [file for file in files if split in _words(file)]
    if not wanted and split == "train":
        wanted = [file for file in files if not _words(file) & _USUAL]
    if not wanted:
        names = ", ".join(file.name for file in files[:8])
        raise DataError(
            f"{path} holds no files of the split {split!r}; it holds {names}; set `split`"
        )
    return wanted


def is_data_file(path: Path) -> bool:
    """True where the name ends like a file that we read."""
    return path.name.lower().endswith(SUFFIXES)


def is_note(path: Path) -> bool:
    """True for what a run or a step of ours keeps beside its rows (its manifest, its report): no
    data, so that the folder can be read like any other.
    """
    name = re.sub(r"-\d+\.json$", ".json", path.name)  # a worker's own
    return name in _NOTES and any((path.parent / mark).is_file() for mark in _MARKS)


def stem(path: Path) -> str:
    """The file's name without the suffix: `gsm8k.dev` of `gsm8k.dev.jsonl.gz`."""
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def check_split_of_file(path: Path, split: str) -> None:
    """Raises `DataError` where one file is asked for a split other than `train` that its name does
    not spell.
    """
    if split != "train" and split not in _words(path):
        raise DataError(
            f"{path} is one file and its name does not say that it is the split {split!r}; leave "
            "the split out, or give a file of it"
        )


def _words(path: Path) -> set[str]:
    return set(re.split(r"[.\-_]", stem(path)))


def data_files(path: Path) -> list[Path]:
    """Data files in the folder `path`, or beside it with its name in front (`data/hh`:
    `data/hh.train.jsonl`).
    """
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    if not folder.is_dir():
        return []
    found: Sequence[Path] = sorted(folder.iterdir())
    return [
        file
        for file in found
        if file.is_file()
        and is_data_file(file)
        and not file.name.startswith(".")
        and not is_note(file)
        and (not prefix or re.match(re.escape(prefix) + r"[.-]", file.name))
    ]
