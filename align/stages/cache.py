"""`run.cache`: finished samples and scores shared between runs, one folder a key.

Steps whose keys differ in their prompts alone make the same rows of the prompts that they share:
`CACHE/streams` lists them together, so that appended prompts cost no more than themselves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from align.data.shards import beside, parts, read_records
from align.errors import StageError
from align.records import Json, Prompt, Sample, Score, content_id
from align.rewards.overdue import is_late
from align.rewards.protocol import Group
from align.stages.manifest import (
    FILE_NAME,
    RESULT_NAME,
    Manifest,
    is_intact,
    key_hash,
    read_manifest,
    write_json,
    write_manifest,
)

CACHED_KINDS = frozenset({"generate", "score"})
SOURCES_NAME = ".cached.json"
"""In a step's folder: entries whose rows its workers may take."""
GROUPS_NAME = "groups.json"
"""In an entry of scores: what each prompt's scores are of."""
_OF_PROMPTS = ("prompts", "samples")


def fetch(cache: Path, kind: str, key: Mapping[str, Json], folder: Path) -> Manifest | None:
    """Copies a finished step with this key into `folder` (hard links where possible); None where
    there is none. Raises `StageError`, and copies nothing, where the entry is damaged.
    """
    entry = cache / kind / key_hash(key)
    found = _whole(entry)
    if found is not None:
        _copy(entry, folder)
    return found


def offer(cache: Path, kind: str, key: Mapping[str, Json], folder: Path) -> None:
    """Names to the step's workers the entries that differ from it in their prompts alone. Raises
    `StageError` where one is damaged.
    """
    names = sorted(path.name for path in _stream(cache, kind, key).glob("*"))
    entries = [entry for entry in (cache / kind / name for name in names) if _whole(entry)]
    if entries:
        write_json(folder / SOURCES_NAME, [str(entry.resolve()) for entry in entries])


def known_samples(folder: Path) -> dict[str, list[Sample]]:
    """By prompt, the samples that the step in `folder` need not draw."""
    found: dict[str, list[Sample]] = {}
    for entry in _offered(folder):
        kept: dict[str, list[Sample]] = {}
        for sample in read_records(entry, Sample):
            kept.setdefault(sample.prompt_id, []).append(sample)
        found |= kept
    return found


def known_scores(folder: Path, groups: Sequence[Group]) -> dict[str, list[Score]]:
    """By prompt, the scores that the step in `folder` need not compute: of the same prompt, in all
    that it says, with the same samples.
    """
    found: dict[str, list[Score]] = {}
    for entry in _offered(folder):
        identities = json.loads((entry / GROUPS_NAME).read_text())
        by_id = {score.sample_id: score for score in read_records(entry, Score)}
        for group in groups:
            if identities.get(group.prompt.prompt_id) == _identity(group):
                scores = [by_id[s.sample_id] for s in group.samples]
                # A missed deadline says how busy a machine was; the next one may be less so.
                if not any(is_late(score.error) for score in scores):
                    found[group.prompt.prompt_id] = scores
    return found


def store(
    cache: Path, kind: str, manifest: Manifest, folder: Path, groups: Sequence[Group] = ()
) -> None:
    """Keeps a finished step for other runs, in the place of other content that it had before it was
    done again; its manifest is written last, so a half-copied entry is not one. `groups`: what
    scores are of.
    """
    entry = cache / kind / key_hash(manifest.key)
    found = read_manifest(entry)
    if found is None or found.content != manifest.content:
        (entry / FILE_NAME).unlink(missing_ok=True)
        _copy(folder, entry)
        if kind == "score":
            identities = {group.prompt.prompt_id: _identity(group) for group in groups}
            write_json(entry / GROUPS_NAME, identities)
        write_manifest(entry, manifest)
    stream = _stream(cache, kind, manifest.key)
    stream.mkdir(parents=True, exist_ok=True)
    (stream / entry.name).touch()


def _whole(entry: Path) -> Manifest | None:
    found = read_manifest(entry)
    if found is not None and not is_intact(entry, found.content):
        raise StageError(
            f"{entry} is damaged: its rows are not those that were stored; delete that folder"
        )
    return found


def _stream(cache: Path, kind: str, key: Mapping[str, Json]) -> Path:
    """Of all steps that make the same rows of a prompt."""
    inputs = cast("Mapping[str, Json]", key.get("inputs", {}))
    of_prompts = _OF_PROMPTS if not _sees_shards(key.get("section")) else ()
    kept = {role: value for role, value in inputs.items() if role not in of_prompts}
    return cache / "streams" / f"{kind}-{key_hash({**key, 'inputs': kept})}"


def _sees_shards(section: Json) -> bool:
    """Whether a prompt's scores depend on the others of its shard (`whiten: {over: shard}`)."""
    if isinstance(section, Mapping):
        return section.get("over") == "shard" or any(map(_sees_shards, section.values()))
    return isinstance(section, list) and any(map(_sees_shards, section))


def _offered(folder: Path) -> list[Path]:
    path = folder / SOURCES_NAME
    return [Path(entry) for entry in json.loads(path.read_text())] if path.is_file() else []


def _identity(group: Group) -> str:
    prompt: Prompt = group.prompt
    said = [list(prompt.messages), prompt.answer, prompt.meta]
    return content_id(said, [sample.sample_id for sample in group.samples])


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    files = [*parts(source), *(child for child in source.iterdir() if child.name == RESULT_NAME)]
    for folder in (child for child in source.iterdir() if child.is_dir() and parts(child)):
        _copy(folder, target / folder.name)
    for file in files:
        temporary = beside(target / file.name)
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copy2(file, temporary)
        temporary.replace(target / file.name)
