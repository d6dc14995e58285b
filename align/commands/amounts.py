"""How much each step of a plan writes, before anything runs: rows of sources, samples, pairs.

Numbers are upper bounds from the recipe and from local files; what is on the Hub stays unknown
(None).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from align.data.splits import data_files
from align.recipe.environment import nested_paths
from align.recipe.sections import (
    Generate,
    PairFrom,
    Plugin,
    Prompts,
    Recipe,
    Scoring,
    Source,
    Window,
)
from align.stages.steps import Step

_OURS = {"seed", "iteration", "iterations", "slices", "round", "informative"}
"""Keys that the plan adds to a section of the recipe."""


@dataclass(frozen=True)
class Amount:
    """What a step writes: `each` rows for each of its prompts."""

    prompts: int | None
    each: int | None = 1

    @property
    def total(self) -> int | None:
        """Rows in all."""
        return None if self.prompts is None or self.each is None else self.prompts * self.each


def amounts(recipe: Recipe, steps: Sequence[Step]) -> dict[str, Amount]:
    """By name, what each step that writes records writes; `steps` come in the order of the plan."""
    found: dict[str, Amount] = {}
    for step in steps:
        amount = _amount(recipe, step, found)
        if amount is not None:
            found[step.name] = amount
    return found


def _amount(recipe: Recipe, step: Step, before: dict[str, Amount]) -> Amount | None:
    match step.kind:
        case "prompts":
            return Amount(None if "stored" in step.section else _prompts(step, recipe.run.seed))
        case "import":
            source = recipe.train.data if recipe.train else None
            return Amount(count_rows(source, recipe.run.seed) if source else None)
        case "generate":
            samplers = samplers_of(step)
            return Amount(before[step.step("prompts")].prompts, samples_a_prompt(samplers))
        case "score":
            return before[step.step("samples")]
        case "informative":
            sampled = [before[name].prompts for name in step.steps("prompts")]
            known = [count for count in sampled if count is not None]
            wanted = int(str(step.section["informative"]))
            return Amount(min(sum(known), wanted) if len(known) == len(sampled) else wanted)
        case "select":
            samples = before[step.step("samples")]
            keep = rule_of(step).options.get("keep")
            each = min(samples.each or keep, keep) if isinstance(keep, int) else samples.each
            return Amount(before[step.step("prompts")].prompts, each)
        case "pair":
            kept = before[step.step("selected" if "selected" in step.inputs else "samples")]
            each = pairs_a_prompt(rule_of(step), kept.each)
            return Amount(before[step.step("prompts")].prompts, each)
        case _:
            return None


def items(recipe: Recipe, step: Step, before: dict[str, Amount]) -> int | None:
    """Rows that a training step reads: pairs or samples, of the iterations in its history."""
    seed = recipe.run.seed
    if step.kind == "sft":
        return count_rows(recipe.sft.data, seed) if recipe.sft else None
    if step.kind == "reward" and recipe.reward and isinstance(recipe.reward.data, Source):
        return count_rows(recipe.reward.data, seed)
    role = trained_role(step)
    past = [r for r in step.inputs if r.startswith(f"{role}:") and "+" not in r]
    counts = [_trained(step, role, name, before) for name in (role, *past)]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    current, earlier = known[0], sum(known[1:])
    history = recipe.train.history if recipe.train else None
    if isinstance(history, Window) and history.share is not None:
        earlier = min(earlier, round(current * history.share / (1 - history.share)))
    return current + earlier


def _trained(step: Step, role: str, name: str, before: dict[str, Amount]) -> int | None:
    """Rows that an iteration brings: of its samples those of the prompts that are trained on."""
    amount = before[step.step(name)]
    if role == "samples":
        prompts = before[step.step(name.replace("samples", "prompts"))]
        return Amount(prompts.prompts, amount.each).total
    return amount.total


def trained_role(step: Step) -> str:
    """The role of the rows that a training step learns from."""
    return next(role for role in ("data", "pairs", "selected", "samples") if role in step.inputs)


def source_of(step: Step) -> Prompts:
    """What a prompts step reads."""
    section = {key: value for key, value in step.section.items() if key not in _OURS}
    return Prompts.model_validate(section)


def samplers_of(step: Step) -> list[Generate]:
    """The samplers of a generate step, or the stores whose prompts a prompts step takes."""
    listed = cast("list[object]", step.section["stored" if step.kind == "prompts" else "samplers"])
    return [Generate.model_validate(each) for each in listed]


def rewards_of(step: Step) -> list[Scoring]:
    """The reward sources of a score step."""
    listed = cast("list[object]", step.section["sources"])
    return [Scoring.model_validate(each) for each in listed]


def rule_of(step: Step) -> Plugin:
    """The rule of a select or pair step; the latter's is a `PairFrom`, which may have a judge."""
    section = {key: value for key, value in step.section.items() if key not in _OURS}
    return (PairFrom if step.kind == "pair" else Plugin).model_validate(section)


def _prompts(step: Step, seed: int) -> int | None:
    """All prompts of the source, or an iteration's share of them."""
    source = source_of(step)
    rows = count_rows(source, seed)
    if "iteration" not in step.section:
        return rows
    if source.per_iteration is not None:
        return source.per_iteration if rows is None else min(source.per_iteration, rows)
    iterations = step.section.get("iterations", 1)
    return rows // iterations if rows is not None and isinstance(iterations, int) else None


def samples_a_prompt(samplers: Sequence[Generate]) -> int | None:
    """The most that a prompt has: the sum of the samplers' `n`, of those that share the prompts the
    largest; None where stored samples bring their own number.
    """
    counts = [None if each.name == "stored" else each.options.get("n", 1) for each in samplers]
    known = [count for count in counts if isinstance(count, int)]
    if not known or len(known) < len(counts):
        return None
    shared = [n for n, each in zip(known, samplers, strict=True) if each.share is not None]
    return sum(known) - sum(shared) + max(shared, default=0)


def pairs_a_prompt(pair: Plugin, n: int | None) -> int | None:
    """The most pairs that a rule of ours makes from n samples; None for rules from elsewhere."""
    if n is None:
        return None
    known = {
        **dict.fromkeys(("max_min", "max_max", "max_random", "random"), min(1, n // 2)),
        "first_round": n // 2,
        "tournament": n - 1,
        "all_pairs": n * (n - 1) // 2,
    }
    most = known.get(pair.name)
    limit = pair.options.get("max_pairs") if pair.name == "all_pairs" else None
    return min(most, limit) if most is not None and isinstance(limit, int) else most


def count_rows(source: Source, seed: int) -> int | None:
    """Rows of a source; None where they are on the Hub. A limit is taken at its word."""
    read = [path for _, path in nested_paths((), source.options)]
    if source.name is not None and read:
        # Made from other rows, of which it may leave out some, or from a run's samples.
        place = Path(read[0]).expanduser()
        holds_rows = place.is_file() or data_files(place)
        return source.limit or (_rows_at(read[0], source.split) if holds_rows else None)
    if source.name is not None:
        return source.limit or _made_rows(type(source), source.model_dump_json(), seed)
    if source.mix is not None:
        counts = [count_rows(part, seed) for part in source.mix]
        total = None if None in counts else sum(count for count in counts if count is not None)
    else:
        total = _rows_at(source.path or "", source.split)
    if total is None:
        return source.limit
    return total if source.limit is None else min(total, source.limit)


@lru_cache
def _made_rows(section: type[Source], source_json: str, seed: int) -> int:
    """Some built-in data must be made to be counted, which takes seconds, so once a source."""
    from align.data.sources import count_built_in

    source = section.model_validate_json(source_json)
    return count_built_in(source, source.name or "", seed=seed)


def _rows_at(path: str, split: str) -> int | None:
    from align.data.sources import local_files

    found = local_files(path, split)
    if found is None:
        return None
    sizes = [(part, sum(_rows_in(file) for file in files)) for part, files in found]
    places = [part.bounds(size) for part, size in sizes]
    return sum(end - first for first, end in places)


def _rows_in(path: Path) -> int:
    from pyarrow.parquet import read_metadata

    from align.data.files import read_file

    name = path.name.lower()
    if name.endswith(".parquet"):
        return read_metadata(path).num_rows
    if name.endswith((".jsonl", ".jsonl.gz")):
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return sum(1 for _ in read_file(path, ""))
