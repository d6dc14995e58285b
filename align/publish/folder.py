"""Publishing into a folder: complete or absent, and only over what an earlier publishing made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from align.errors import InputError
from align.publish.verify import compare, hash_folder
from align.report.card import MARK


def write_folder(target: Path, fill: Callable[[Path], object]) -> dict[str, str]:
    """Has `fill` write into a new folder, which then takes the place of `target`; the files'
    SHA-256, read back.

    Raises `InputError` where `target` holds something that was not published by us.
    """
    require_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Names that a later attempt finds again: one that was killed leaves a whole model behind.
    staged, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    for left in (staged, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        fill(staged)
        meant = hash_folder(staged)
        if target.exists():
            target.rename(old)  # deleted in place, half of it might be left, without our card
        staged.rename(target)
    finally:
        for left in (staged, old):
            shutil.rmtree(left, ignore_errors=True)
    compare(meant, hash_folder(target), str(target))
    return meant


def require_replaceable(target: Path) -> None:
    """Raises `InputError` unless `target` is absent, empty, or carries a card of ours."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; name a folder to publish into")
    card = target / "README.md"
    if any(target.iterdir()) and not (card.is_file() and MARK in card.read_text(encoding="utf-8")):
        raise InputError(
            f"{target} is not empty and was not published by align; name another folder or empty it"
        )
