"""The reward sources of a recipe's `score` as one reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import cast

from align.errors import InputError
from align.records import Json
from align.registry import build, plugin_class
from align.rewards.protocol import Judge, Reward
from align.rewards.weighted import Weighted

ASKING = frozenset({"judge", "pairwise_judge", "served_reward_model"})
"""Rewards that ask a server, and take a `place` for answers, usage and log."""


def weigh_sources(
    sections: Sequence[Mapping[str, Json]],
    *,
    own: Path | None = None,
    policy: str | None = None,
    place: Mapping[str, Json] | None = None,
) -> Weighted:
    """`sections` as the recipe has them; `own` is the reward model that this recipe trained,
    `policy` the checkpoint whose tokenizer wrote the samples: where it equals a source's, the
    sampled ids themselves are scored (I1). `place` is for those that ask a server.
    """
    sources: list[tuple[str, float, Reward]] = []
    for section in (_placed(section, place) for section in sections):
        options = {k: v for k, v in section.items() if k not in ("weight", "label")}
        name = str(section["name"])
        if name == "reward_model" and section.get("path") is None and own is not None:
            options["path"] = str(own)
        if policy is not None and "policy" in option_names(name):
            options["policy"] = policy
        label = str(section.get("label") or name)
        weight = float(cast(float, section.get("weight", 1.0)))
        sources.append((label, weight, build("reward", options)))
    try:
        return Weighted(tuple(sources))
    except InputError as error:
        raise InputError(f"score: {error}") from error


def open_judge(section: Mapping[str, Json], place: Mapping[str, Json]) -> Judge:
    """The judge of a `pair` section, opened."""
    return cast(Judge, build("reward", _placed(section, place)).open())


def _placed(section: Mapping[str, Json], place: Mapping[str, Json] | None) -> dict[str, Json]:
    """The section with `place` for every reward in it that asks a server, those inside others
    too.
    """
    found: dict[str, Json] = {name: _within(value, place) for name, value in section.items()}
    if place is not None and section.get("name") in ASKING and section.get("place") is None:
        found["place"] = place
    return found


def _within(value: Json, place: Mapping[str, Json] | None) -> Json:
    if isinstance(value, Mapping):
        return _placed(value, place)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_within(each, place) for each in value]
    return value


def option_names(name: str) -> set[str]:
    """Names of the options that the reward called `name` takes."""
    return {field.name for field in fields(plugin_class("reward", name))}
