"""One folder of a run, and the words in which a plan is written. Pure: no I/O, no tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from align.recipe.sections import Plugin, Section
from align.records import Json

Kind = Literal[
    "init",
    "prompts",
    "import",
    "generate",
    "score",
    "informative",
    "select",
    "pair",
    "sft",
    "reward",
    "policy",
    "ema",
    "evaluate",
    "stop",
    "publish",
]
AnyPlugin = TypeVar("AnyPlugin", bound=Plugin)


@dataclass(frozen=True)
class Step:
    """One folder of a run."""

    name: str
    """The folder, relative to the run's."""
    kind: Kind
    inputs: dict[str, str] = field(default_factory=dict)
    """Role -> `step:NAME` (content of a step) or `path:PATH` (weights from outside)."""
    section: dict[str, Json] = field(default_factory=dict)
    """What of the recipe decides the content; part of the key."""
    iteration: int | None = None

    def step(self, role: str) -> str:
        """Name of the step that fills `role`."""
        return self.inputs[role].removeprefix("step:")

    def steps(self, role: str) -> list[str]:
        """Names of all steps that fill `role`, one a round of sampling (`samples`, `samples+1`)."""
        return [
            name.removeprefix("step:")
            for other, name in self.inputs.items()
            if other.partition("+")[0] == role
        ]


@dataclass(frozen=True)
class Verdict:
    """What finished steps decided about the rest of the plan."""

    last: int | None = None
    """The iteration after which `run.stop` ended the loop."""
    kept: str | None = None
    """Whose policy the run results in: `start` or an iteration's folder; None: the last one's."""
    why: str = ""


def sampled(folder: str) -> dict[str, str]:
    """The roles of a folder's prompts and samples."""
    return {"prompts": f"step:{folder}/prompts", "samples": f"step:{folder}/samples"}


def curated(folder: str) -> dict[str, str]:
    """The same, and its scores."""
    return sampled(folder) | {"scores": f"step:{folder}/scores"}


def listed(section: AnyPlugin | list[AnyPlugin] | None) -> list[AnyPlugin]:
    """A section that holds one or several, as a list."""
    if section is None:
        return []
    return section if isinstance(section, list) else [section]


def plain(section: Section | None) -> dict[str, Json]:
    """What of a section differs from its defaults, as JSON reads it back (lists for tuples).

    Not pydantic's `mode="json"`, which makes null of `beta: .inf`.
    """
    return (
        {} if section is None else json.loads(json.dumps(section.model_dump(exclude_defaults=True)))
    )
