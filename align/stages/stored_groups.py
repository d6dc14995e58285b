"""Samples of an earlier run as groups, with the scores that lie beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    none.
    """
    sampler = Stored(path).open(None, Setting(seed=0))
    prompts = sampler.prompts()
    groups = groups_of(prompts, list(sampler.generate(prompts)))
    if not groups:
        raise DataError(f"{path} holds no samples")
    return StoredGroups(groups, {score.sample_id: score for score in sampler.scores()})
