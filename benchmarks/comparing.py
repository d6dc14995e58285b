"""What the reproduction scripts compare: arms, claims, their measured lines and intervals."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recording import RESULTS

from align.recipe.load import load_recipe
from align.records import content_id

RECIPES = Path(__file__).parents[1] / "recipes"
START = "start"
"""The base itself, in claims."""
RESAMPLES = 2000

Setting = tuple[str, ...]
Line = Mapping[str, object]
Groups = dict[int, list[float]]
"""Seed -> a number a prompt."""


@dataclass(frozen=True)
class Task:
    """What the arms learn, and how it is measured."""

    label: str
    """Of the score, on axes."""
    splits: Mapping[str, Setting]
    """`tuning` and `fresh` -> the settings that pick the prompts of the evaluation."""
    is_verified: bool
    """Whether a sample counts as right (a score above 0), not by its score."""
    answer: str | None = None
    """What a whole answer looks like; others are counted as malformed."""
    proxy: str | None = None
    """Label of the learned reward, by which settings are then chosen (as in RSO's paper)."""
    files: tuple[str, ...] = ()
    """Names of the paths that the user gives: `{NAME}` in settings."""


@dataclass(frozen=True)
class Base:
    """What arms begin with, made once a seed."""

    recipe: str
    settings: Setting
    step: str
    """The step whose folder `{NAME}` stands for."""


@dataclass(frozen=True)
class Arm:
    """A method to be compared."""

    name: str
    recipe: str
    """Below `recipes/`."""
    settings: Setting = ()
    """`KEY=VALUE`; `{NAME}` stands for the base of that name and the arm's seed, or a file."""
    grid: tuple[Setting, ...] = ((),)
    """Candidates, of which tuning picks one."""


@dataclass(frozen=True)
class Claim:
    """`better` has a higher mean of `metric` than `worse`."""

    title: str
    better: str
    worse: str
    metric: str = "score"


@dataclass(frozen=True)
class Study:
    """Arms on the same bases and prompts, and what is claimed about them."""

    name: str
    record: str
    """Lines of all studies of a script on the same base: an arm that two of them have runs once."""
    task: Task
    bases: Mapping[str, Base]
    arms: Sequence[Arm]
    claims: Sequence[Claim]

    @property
    def path(self) -> Path:
        """Where its lines are appended."""
        return RESULTS / f"{self.record}.jsonl"

    def lines(self) -> list[Line]:
        """All that was measured so far."""
        return (
            [json.loads(line) for line in self.path.read_text().splitlines()]
            if self.path.is_file()
            else []
        )

    def key(self, arm: Arm, choice: Setting) -> str:
        """The same for arms whose recipes come to the same, whatever they are called."""
        return self._key(arm.recipe, (*arm.settings, *choice))

    def start_key(self) -> str:
        """Of the lines that say what the base itself does; all arms of a study have the same."""
        arm = self.arms[0]
        return content_id(START, self._key(arm.recipe, arm.settings, ("policy", "evaluate")))

    def base_key(self, name: str) -> str:
        """The same for bases whose recipes come to the same."""
        base = self.bases[name]
        return recipe_key(base.recipe, base.settings, frozenset(self.task.files))

    def _key(self, recipe: str, settings: Setting, sections: tuple[str, ...] = ()) -> str:
        own = recipe_key(
            recipe, settings, frozenset(self.bases) | frozenset(self.task.files), sections
        )
        said = [one for one in settings if not sections or one.startswith(sections)]
        used = sorted(name for name in self.bases if f"{{{name}}}" in " ".join(said))
        return content_id(own, [self.base_key(name) for name in used])


@functools.cache
def recipe_key(
    recipe: str, settings: Setting, names: frozenset[str], sections: tuple[str, ...] = ()
) -> str:
    """Of all that a recipe (or these sections of it) says, but for its name, its cache and what
    seed and split are. `names` are those that settings have in braces.
    """
    filled = [setting.format(**{name: f"the-{name}" for name in names}) for setting in settings]
    found = load_recipe(RECIPES / recipe, filled).model_dump(mode="json", exclude_defaults=True)
    for name in ("name", "cache", "seed"):
        found["run"].pop(name, None)
    return content_id({name: found[name] for name in sections} if sections else found)


def is_of(line: Line, key: str, role: str) -> bool:
    """Whether a line is of the arm with this key, in this role."""
    return (line["key"], line["role"]) == (key, role)


def chosen(study: Study, lines: Sequence[Line], arm: Arm, seeds: Sequence[int]) -> Setting | None:
    """The candidate with the best mean over all tuning seeds; None while one is missing."""
    if len(arm.grid) == 1:
        return arm.grid[0]
    metric = "score" if study.task.proxy is None else "proxy"
    means: dict[Setting, float] = {}
    for choice in arm.grid:
        key = study.key(arm, choice)
        own = [line for line in lines if is_of(line, key, "tuning") and line["seed"] in seeds]
        if not set(seeds) <= {line["seed"] for line in own}:
            return None
        scores = [-np.inf if "failed" in line else _mean(_numbers(line, metric)) for line in own]
        means[choice] = _mean(scores)
    return max(means, key=lambda choice: means[choice])


def values_of(
    study: Study, name: str, options: argparse.Namespace, metric: str = "score"
) -> Groups:
    """Seed -> the metric by prompt (or one number, where it is the run's) of an arm's chosen
    setting on fresh seeds.
    """
    lines = study.lines()
    if name == START:
        key: str | None = study.start_key()
    else:
        arm = next(arm for arm in study.arms if arm.name == name)
        choice = chosen(study, lines, arm, options.tuning_seeds)
        key = None if choice is None else study.key(arm, choice)
    return {
        int(str(line["seed"])): _numbers(line, metric)
        for line in lines
        if key is not None
        and is_of(line, key, "fresh")
        and line["seed"] in options.seeds
        and "failed" not in line
        and line.get(metric) is not None
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(np.asarray(values, float)))


def _numbers(line: Line, metric: str) -> list[float]:
    """Lists hold each prompt's sum over its samples, which takes fewer characters than the mean."""
    found = line[metric]
    if isinstance(found, list):
        return [float(value) / int(str(line["samples"])) for value in found]
    return [float(str(found))]


def interval(groups: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Mean over all groups (seeds), and the ends of its interval: groups are drawn with
    replacement, then the values (prompts) of each.
    """
    generator = np.random.default_rng(seed)
    arrays: list[NDArray[np.float64]] = [np.asarray(group, float) for group in groups]
    means = np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        drawn = [arrays[index] for index in generator.integers(len(arrays), size=len(arrays))]
        means[place] = np.mean(
            [one[generator.integers(len(one), size=len(one))].mean() for one in drawn]
        )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([one.mean() for one in arrays])), float(low), float(high)


def difference(
    better: Mapping[int, Sequence[float]], worse: Mapping[int, Sequence[float]]
) -> tuple[float, float, float] | None:
    """The interval of better - worse on the seeds that both have; None without any."""
    shared = sorted(better.keys() & worse.keys())
    groups = [list(np.subtract(better[seed], worse[seed])) for seed in shared]
    return interval(groups) if groups else None
