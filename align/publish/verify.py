"""Reading back what was published: hashes of what was meant against hashes of what arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from align.errors import StageError

_BLOCK = 1 << 22


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by path relative to it, links followed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def compare(meant: Mapping[str, str], arrived: Mapping[str, str], place: str) -> None:
    """Raises `StageError` naming the first file of `meant` that `arrived` lacks or holds
    otherwise.
    """
    for name, digest in meant.items():
        found = arrived.get(name)
        if found is None:
            raise StageError(f"publishing failed: {name} is missing in {place}; publish again")
        if found != digest:
            raise StageError(
                f"publishing failed: {name} read back from {place} is not what was sent "
                f"(sent sha256 {digest[:16]}, found {found[:16]}); publish again"
            )
