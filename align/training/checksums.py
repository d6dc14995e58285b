"""Checksums of a checkpoint's files: a disk that returns other bytes than were written must not
become another policy.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BLOCK = 1 << 24


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file below `folder`, by its name in it. Several are read at once: `zlib`
    works outside the interpreter's lock.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(_checksum, files))
    return {str(path.relative_to(folder)): value for path, value in zip(files, sums, strict=True)}


def damaged(folder: Path, expected: Mapping[str, int]) -> list[str]:
    """Names of the files that are missing or hold other bytes; files beside them are no matter."""
    return [
        name
        for name, value in expected.items()
        if not (folder / name).is_file() or _checksum(folder / name) != value
    ]


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
