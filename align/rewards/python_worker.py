"""A call of a `python` reward's function inside a killable worker (`align.rewards.process`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import cast

from align.records import Json, Prompt, Sample
from align.rewards.protocol import Group

Function = Callable[[Prompt, Sequence[Sample]], Sequence["float | None"]]
TUPLES = ("messages", "prompt_ids", "completion_ids", "loss_mask", "logps", "weight_versions")
"""Fields of the records that JSON makes lists of."""


def request(group: Group) -> Json:
    """A group as one item of the pool."""
    samples = [asdict(sample) for sample in group.samples]
    return cast(Json, {"prompt": asdict(group.prompt), "samples": samples})


def make_caller(name: str) -> Callable[[Mapping[str, object]], list[float | str | None]]:
    """What gives the function's values for the group that `request` wrote; what is no number as
    text.
    """
    module, _, attribute = name.rpartition(".")
    function: Function = vars(importlib.import_module(module))[attribute]

    def call(item: Mapping[str, object]) -> list[float | str | None]:
        given = cast("list[dict[str, object]]", item["samples"])
        prompt = Prompt(**_fields(item["prompt"]))  # pyright: ignore[reportArgumentType]
        samples = [Sample(**_fields(one)) for one in given]  # pyright: ignore[reportArgumentType]
        return [_number(value) for value in function(prompt, samples)]

    return call


def _fields(record: object) -> dict[str, object]:
    return {
        name: tuple(value) if name in TUPLES and isinstance(value, list) else value
        for name, value in cast("dict[str, object]", record).items()
    }


def _number(value: object) -> float | str | None:
    try:
        return None if value is None else float(cast(float, value))
    except (TypeError, ValueError):
        return str(value)
