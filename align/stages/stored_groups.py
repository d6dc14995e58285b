"""Samples of an earlier run as groups, with the scores that lie beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from align.errors import DataError
from align.generation.protocol import Setting
from align.generation.stored import Stored
from align.records import Score
from align.rewards.protocol import Group
from align.stages.sampling import groups_of


@dataclass(frozen=True)
class StoredGroups:
    """What lies at a path."""

    groups: list[Group]
    scores: Mapping[str, Score]
    """By sample id; empty where there are none."""


def read_groups(path: str) -> StoredGroups:
    """A run, one of its iterations or a folder of its samples. Raises `DataError` where there are
    none, which rows of text are not: no policy is known here whose tokens they would be.
    """
    place = Path(path).expanduser()
    if not place.is_dir() or not any(place.rglob("part-*.parquet")):
        what = "is not there" if not place.exists() else "holds no samples of a run"
        raise DataError(f"{path} {what}; give a run's folder, or one of its iterations")
    sampler = Stored(path).open(None, Setting(seed=0))
    prompts = sampler.prompts()
    groups = groups_of(prompts, list(sampler.generate(prompts)))
    if not groups:
        raise DataError(f"{path} holds no samples")
    return StoredGroups(groups, {score.sample_id: score for score in sampler.scores()})
