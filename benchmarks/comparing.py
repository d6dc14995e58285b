"""What the reproduction scripts compare: arms, claims, their measured lines, intervals, tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recording import RESULTS, machine

START = "start"
"""The base itself, in claims."""
RESAMPLES = 2000

Setting = tuple[str, ...]
Line = Mapping[str, object]


@dataclass(frozen=True)
class Arm:
    """A method to be compared."""

    name: str
    recipe: str
    """Below `recipes/`."""
    settings: Setting = ()
    """`KEY=VALUE`; `{NAME}` stands for the weights of the base of that name and seed."""
    grid: tuple[Setting, ...] = ((),)
    """Candidates, of which tuning picks one."""


@dataclass(frozen=True)
class Claim:
    """`better` has a higher score than `worse`."""

    title: str
    better: str
    worse: str


@dataclass(frozen=True)
class Study:
    """Arms on the same bases and prompts, and what is claimed about them."""

    name: str
    bases: Mapping[str, tuple[str, Setting]]
    """Name -> recipe below `recipes/` and settings; their step `sft` makes the weights."""
    arms: Sequence[Arm]
    claims: Sequence[Claim]

    @property
    def path(self) -> Path:
        """Where its lines are appended."""
        return RESULTS / f"{self.name}.jsonl"

    def lines(self) -> list[Line]:
        """All that was measured so far."""
        return (
            [json.loads(line) for line in self.path.read_text().splitlines()]
            if self.path.is_file()
            else []
        )


def is_of(line: Line, arm: Arm, choice: Setting, role: str) -> bool:
    """Whether a line is of this arm, candidate and role."""
    wanted = (arm.name, list(arm.settings), list(choice), role)
    return (line["arm"], line["settings"], line["choice"], line["role"]) == wanted


def chosen(lines: Sequence[Line], arm: Arm, seeds: Sequence[int]) -> Setting | None:
    """The candidate with the best mean over all tuning seeds; None while one is missing."""
    if len(arm.grid) == 1:
        return arm.grid[0]
    means: dict[Setting, float] = {}
    for choice in arm.grid:
        own = [line for line in lines if is_of(line, arm, choice, "tuning")]
        if not set(seeds) <= {line["seed"] for line in own}:
            return None
        scores = [
            -np.inf if "failed" in line else float(str(line["score"]))
            for line in own
            if line["seed"] in seeds
        ]
        means[choice] = float(np.mean(scores))
    return max(means, key=lambda choice: means[choice])


def values_of(study: Study, name: str, options: argparse.Namespace) -> dict[int, list[float]]:
    """Seed -> score by prompt, of an arm's chosen setting on fresh seeds."""
    lines = study.lines()
    if name == START:
        fresh = [line for line in lines if line["role"] == "fresh" and "failed" not in line]
        return {int(str(line["seed"])): _floats(line["start"]) for line in fresh}
    arm = next(arm for arm in study.arms if arm.name == name)
    choice = chosen(lines, arm, options.tuning_seeds)
    own = [line for line in lines if choice is not None and is_of(line, arm, choice, "fresh")]
    return {
        int(str(line["seed"])): _floats(line["values"])
        for line in own
        if line["seed"] in options.seeds and "failed" not in line
    }


def _floats(values: object) -> list[float]:
    assert isinstance(values, list)
    return [float(value) for value in values]


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


def table(study: Study, options: argparse.Namespace) -> list[str]:
    """Markdown: every arm, then every claim and whether its interval excludes zero."""
    lines = study.lines()
    tuning = sum(line["role"] == "tuning" for line in lines)
    seeds = ", ".join(map(str, options.tuning_seeds))
    said = f"{tuning} tuning runs on seeds {seeds} (split validation)"
    rows = [f"`python {' '.join(sys.argv)}`", "", f"{said}; below: fresh seeds, split test.", ""]
    rows += [
        "| arm | setting | candidates | seeds | score | 95 % | KL |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (START, *(arm.name for arm in study.arms)):
        rows += _arm_row(study, name, options)
    rows += ["", "| claim | difference | 95 % | seeds | |", "|---|---|---|---|---|"]
    for claim in study.claims:
        pair = [values_of(study, name, options) for name in (claim.better, claim.worse)]
        found = difference(*pair)
        if found is None:
            rows.append(f"| {claim.title} | not run | | | |")
            continue
        mean, low, high = found
        verdict = "holds" if low > 0 else "reversed" if high < 0 else "not established"
        count = len(pair[0].keys() & pair[1].keys())
        rows.append(
            f"| {claim.title} ({claim.better} - {claim.worse}) | {mean:+.3f} "
            f"| [{low:+.3f}, {high:+.3f}] | {count} | {verdict} |"
        )
    return [*rows, "", machine()]


def _arm_row(study: Study, name: str, options: argparse.Namespace) -> Iterator[str]:
    groups = values_of(study, name, options)
    if not groups:
        return
    mean, low, high = interval(list(groups.values()))
    arm = next((arm for arm in study.arms if arm.name == name), None)
    setting, kl = "", ""
    if arm is not None:
        choice = chosen(study.lines(), arm, options.tuning_seeds) or ()
        setting = " ".join((*arm.settings, *choice))
        own = [line for line in study.lines() if is_of(line, arm, choice, "fresh")]
        kls = [float(str(line["kl"])) for line in own if line.get("kl") is not None]
        kl = f"{np.mean(kls):.2f}" if kls else ""
        failed = sum("failed" in line for line in own)
        setting += f" ({failed} runs failed)" if failed else ""
    tried = len(arm.grid) if arm is not None else ""
    yield (
        f"| {name} | {setting} | {tried} | {len(groups)} | {mean:.3f} "
        f"| [{low:.3f}, {high:.3f}] | {kl} |"
    )
