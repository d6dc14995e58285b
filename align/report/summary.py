"""What a finished (or running) run says of itself, read from its manifests alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from align.errors import RecipeError
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.records import Json
from align.stages.manifest import FILE_NAME, Manifest, read_manifest
from align.stages.step import Kind, Step, Verdict
from align.stages.steps import plan
from align.stages.verdict import read_verdict

KINDS = {
    "policy": "train",
    "sft": "train",
    "reward": "train",
    "generate": "sample",
    "score": "score",
    "evaluate": "evaluate",
}
"""Step kind -> column of the table of seconds; the rest is `other`."""


@dataclass(frozen=True)
class Point:
    """One evaluated policy: the first one (`start`) or an iteration's."""

    name: str
    metrics: Mapping[str, Json]
    """As the evaluate stage wrote them: intervals `{"mean", "low", "high"}` and plain numbers."""
    seconds: Mapping[str, float]
    """Wall seconds by column of `KINDS`, of all steps that belong to this iteration."""

    def mean(self, name: str) -> float | None:
        """The estimate of a metric, or None where it was not measured."""
        value = self.metrics.get(name)
        if isinstance(value, Mapping):
            value = value["mean"]
        return float(cast(float, value)) if value is not None else None

    def bounds(self, name: str) -> tuple[float, float] | None:
        """The metric's interval, or None where it has none."""
        value = self.metrics.get(name)
        if not isinstance(value, Mapping):
            return None
        return float(cast(float, value["low"])), float(cast(float, value["high"]))


@dataclass(frozen=True)
class Summary:
    """A run folder."""

    out: Path
    recipe: Recipe
    steps: tuple[tuple[Step, Manifest | None], ...]
    points: tuple[Point, ...]
    verdict: Verdict
    refused: str = ""
    """Why today's rules refuse the recipe, in one line. Then `recipe` is an empty one and `steps`
    are those that lie there: without a recipe nothing is known of others.
    """

    @property
    def seconds(self) -> float:
        """Of all finished steps."""
        return sum(manifest.seconds for _, manifest in self.steps if manifest)

    @property
    def ending(self) -> str:
        """Why the loop ended before its last iteration or whose policy is kept; empty where there
        is nothing to say.
        """
        verdict = self.verdict
        kept = {None: "", "start": "the policy that the loop began with"}.get(
            verdict.kept, f"{verdict.kept}/checkpoint"
        )
        if not kept:
            return ""
        best = ": the best held-out score" if verdict.last is None else ""
        nothing = "" if self.has_model else "; nothing new to publish"
        stop = "" if best else f"stop   after iteration {verdict.last}: {verdict.why}\n"
        return f"{stop}kept   {kept}{best}{nothing}"

    @property
    def has_model(self) -> bool:
        """Whether the run results in a model of its own making."""
        recipe = self.recipe
        if self.verdict.kept == "start":
            return recipe.sft is not None
        return any(part is not None for part in (recipe.sft, recipe.reward, recipe.train))

    @property
    def finished(self) -> bool:
        """True when every step has its manifest."""
        return not self.refused and all(manifest is not None for _, manifest in self.steps)


def read_run(out: Path) -> Summary:
    """Reads `recipe.yaml` and every manifest of a run folder."""
    recipe = load_recipe(out / "recipe.yaml", plugin_options=False)
    verdict = read_verdict(recipe, out)
    steps = tuple((step, read_manifest(out / step.name)) for step in plan(recipe, verdict))
    return Summary(out, recipe, steps, tuple(_points(steps)), verdict)


def read_any_run(out: Path) -> Summary:
    """The same; of a run whose recipe today's rules refuse, what its manifests alone tell."""
    try:
        return read_run(out)
    except RecipeError as error:
        others = len(error.errors) - 1
        more = f" (and {others} more: align check {out / 'recipe.yaml'})" if others else ""
        refused = (
            "today's rules refuse the recipe, so only what is finished is shown: "
            f"{error.errors[0]}{more}"
        )
    found = {path.parent: read_manifest(path.parent) for path in out.rglob(FILE_NAME)}
    # In a folder of another name lies a cache's entry.
    made = [one for folder, one in found.items() if one and folder == out / one.step]
    made.sort(key=lambda one: (one.finished, one.step))
    steps = tuple((Step(one.step, cast(Kind, one.kind)), one) for one in made)
    return Summary(out, Recipe(), steps, tuple(_points(steps)), Verdict(), refused)


def _points(steps: tuple[tuple[Step, Manifest | None], ...]) -> list[Point]:
    seconds: dict[str, dict[str, float]] = {}
    for step, manifest in steps:
        if manifest is not None:
            columns = seconds.setdefault(_owner(step), {})
            column = KINDS.get(step.kind, "other")
            columns[column] = columns.get(column, 0.0) + manifest.seconds
    return [
        Point(_owner(step), manifest.metrics, seconds[_owner(step)])
        for step, manifest in steps
        if step.kind == "evaluate" and manifest is not None
    ]


def _owner(step: Step) -> str:
    first = step.name.split("/")[0]
    return first if first.startswith("iter-") else "start"
