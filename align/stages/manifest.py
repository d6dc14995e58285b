"""`manifest.json`: written last, by atomic rename; its `key` says what a step was made from,
`content` what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from align.data.fingerprint import folder_fingerprint
from align.data.shards import content_hash, parts, whole_or_absent
from align.errors import DataError
from align.records import Json, canonical_json

FILE_NAME = "manifest.json"
RESULT_NAME = "result.json"


@dataclass(frozen=True)
class Result:
    """What a step's body reports: things counted (kept, dropped and why) and things measured."""

    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """One finished step."""

    step: str
    kind: str
    key: Mapping[str, Json]
    """Recipe section, inputs' content, files, code, tokenizer, versions: decides whether the step
    may be skipped.
    """
    content: str
    """Hash of rows or tensors: what "the same" means."""
    counts: Mapping[str, int]
    metrics: Mapping[str, Json]
    seconds: float
    finished: str
    """UTC, ISO 8601."""
    command: str = ""
    from_cache: bool = False
    work: float = 0.0
    """Seconds of `seconds` in which the step sampled, scored or trained."""


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished step, or None where it is not finished."""
    try:
        return Manifest(**json.loads((folder / FILE_NAME).read_text()))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as error:
        raise DataError(
            f"{folder / FILE_NAME} is damaged ({error}); delete it and run the same command again"
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Makes the step finished."""
    write_json(folder / FILE_NAME, asdict(manifest))


def read_result(folder: Path) -> Result:
    """What the body reported; empty where it had nothing to say."""
    path = folder / RESULT_NAME
    return Result(**json.loads(path.read_text())) if path.is_file() else Result()


def write_result(folder: Path, result: Result) -> None:
    """Called by a step's body when its files are complete."""
    write_json(folder / RESULT_NAME, asdict(result))


def write_json(path: Path, value: object) -> None:
    """Whole or absent: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_absent(path) as temporary, temporary.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def content_of(folder: Path) -> str:
    """Hash of what a step holds: rows, tensors, sub-folders of rows, or else the numbers it
    reported.
    """
    found = [f"rows:{content_hash(folder)}"] if parts(folder) else []
    if any(folder.glob("*.safetensors")):
        found.append(f"weights:{folder_fingerprint(folder)}")
    children = {
        child.name: content_hash(child)
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".") and parts(child)
    }
    if children:
        found.append(canonical_json(children))
    if not found:
        result = read_result(folder)
        found.append(canonical_json([result.counts, result.metrics]))
    return hashlib.sha256("+".join(found).encode()).hexdigest()[:32]


def is_intact(folder: Path, content: str) -> bool:
    """Whether a step still holds what its manifest says."""
    try:
        return content_of(folder) == content
    except (ValueError, KeyError, TypeError):  # whatever a header with other bytes leads to
        return False


def key_hash(key: Mapping[str, Json]) -> str:
    """First 32 hex digits of the key's SHA-256: the name of an entry in `run.cache`."""
    return hashlib.sha256(canonical_json(key).encode()).hexdigest()[:32]


def changed(old: Mapping[str, Json], new: Mapping[str, Json], prefix: str = "") -> list[str]:
    """Dotted names of the entries in which two keys differ, with both values."""
    names: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names += changed(before, after, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name} ({_short(before)} -> {_short(after)})")
    return names


def _short(value: Json) -> str:
    text = canonical_json(value)
    return text if len(text) <= 40 else text[:37] + "..."
