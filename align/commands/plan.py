"""What `align check` prints: a line for each step of the plan that `align run` follows, and
estimates.

A step that every iteration has is one line, with the numbers of the last iteration: none is larger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from align.commands.amounts import (
    Amount,
    amounts,
    count_rows,
    items,
    rewards_of,
    rule_of,
    samplers_of,
    source_of,
    trained_role,
)
from align.commands.estimates import estimates
from align.data.splits import data_files
from align.recipe.document import dotted
from align.recipe.environment import all_paths, is_local, unset_variables
from align.recipe.sections import PairFrom, Plugin, Prompts, Recipe, Reward, Sft, Source, Train
from align.stages.steps import Step, plan

DEFAULT_EPOCHS = 3.0
"""`num_train_epochs` of transformers and TRL where `args` has none; pinned by a test."""
_ITERATION = re.compile(r"iter-(\d+)/(.+)")


@dataclass(frozen=True)
class Line:
    """One row of the table; `name` is the folder in the run."""

    name: str
    reads: str
    writes: str


@dataclass(frozen=True)
class Plan:
    """All that `align check` prints."""

    steps: list[Line]
    estimates: list[str]
    unverified: list[str]
    """Hub ids, each with its key."""
    unset: list[str]
    """Variables for tokens that are not set here."""
    notes: list[str]
    """What is allowed, and may be regretted later; each with its key."""


def make_plan(recipe: Recipe) -> Plan:
    """The plan; reads the sizes of local files and the headers of local weights, never weights."""
    steps = plan(recipe)
    found = amounts(recipe, steps)
    lines = [Line(step.name, *_describe(recipe, step, found)) for step in steps]
    hub = [
        f"{dotted(key)}: {path}"
        for key, path in all_paths(recipe)
        if not (is_local(path) or data_files(Path(path)))
    ]
    sizes = estimates(recipe, steps, found)
    unverified, notes = list(dict.fromkeys(hub)), _notes(recipe, found)
    return Plan(_folded(lines), sizes, unverified, unset_variables(recipe), notes)


def _notes(recipe: Recipe, found: dict[str, Amount]) -> list[str]:
    """Loops that prompts are too few for, or that cannot be given another iteration later."""
    prompts, iterations = recipe.prompts, recipe.run.iterations
    if prompts is None or iterations == 1:
        return []
    if prompts.per_iteration is not None:
        return [] if prompts.resample else _short(recipe, prompts, prompts.per_iteration)
    count = found["iter-000/prompts"].total if "iter-000/prompts" in found else None
    taken = f" ({count:,})" if count else ""
    return [
        f"prompts.per_iteration: is not set, so each of {iterations} iterations takes an equal "
        f"share of the prompts{taken} and the run cannot be extended by more iterations; set it "
        "where that may be wanted"
    ]


def _short(recipe: Recipe, prompts: Prompts, size: int) -> list[str]:
    """All that is left out in cleaning may make it shorter."""
    rows, iterations = count_rows(prompts, recipe.run.seed), recipe.run.iterations
    size *= 1 + (prompts.refill.rounds if prompts.refill else 0)
    if rows is None or rows >= size * iterations:
        return []
    full, rest = divmod(rows, size)
    last = "takes what is left" if full == iterations - 1 and rest else "has none: this cannot run"
    return [
        f"prompts.per_iteration: {iterations} iterations of {size:,} prompts want "
        f"{size * iterations:,}, and there are {rows:,}; the last one {last}"
    ]


def _folded(lines: Sequence[Line]) -> list[Line]:
    """The lines with `iter-000/x`, `iter-001/x`, ... as one `iter-000..001/x`, where the first
    stood.
    """
    found: dict[str, list[Line]] = {}
    for line in lines:
        match = _ITERATION.fullmatch(line.name)
        found.setdefault(f"iter/{match[2]}" if match else line.name, []).append(line)
    return [_as_one(same) for same in found.values()]


def _as_one(lines: Sequence[Line]) -> Line:
    if len(lines) == 1:
        return lines[0]
    first, last = lines[0].name, lines[-1].name
    between, rest = last.removeprefix("iter-").split("/", 1)
    return replace(lines[-1], name=f"{first.split('/')[0]}..{between}/{rest}")


def _describe(recipe: Recipe, step: Step, found: dict[str, Amount]) -> tuple[str, str]:
    """What the step reads (or who works on it), and what it writes."""
    amount = found.get(step.name, Amount(None))
    count = number(amount.total)
    match step.kind:
        case "init":
            return "policy.config and tokenizer", "a model with random weights"
        case "sft" | "reward" | "policy":
            return _training(recipe, step, found)
        case "prompts":
            if "stored" in step.section:
                return _names(samplers_of(step)), f"{count} prompts"
            return name_of(source_of(step)), f"{count} prompts"
        case "import":
            source = recipe.train.data if recipe.train else None
            return name_of(source) if source else "", f"{count} rows"
        case "generate":
            known = amount.prompts is not None and amount.each is not None
            product = f" ({number(amount.prompts)} x {amount.each})" if known else ""
            return _names(samplers_of(step)), f"{count} samples{product}"
        case "score":
            return _names(rewards_of(step)), f"{count} scores"
        case "informative":
            return "prompts, samples, scores", f"at most {count} prompts that tell good from bad"
        case "select":
            return rule_of(step).name, f"at most {count} samples"
        case "pair":
            rule = rule_of(step)
            judge = rule.judge if isinstance(rule, PairFrom) else None
            judged = f", judged by {plugin_name(judge)}" if judge else ""
            return rule.name + judged, f"at most {count} pairs"
        case "ema":
            return "checkpoint", f"a moving average of the policies ({step.section['ema']})"
        case "evaluate":
            gain = ", gain" if "start" in step.inputs else ""
            return "samples, scores", f"means{gain}{', KL' if 'policy' in step.inputs else ''}"
        case "stop":
            return "evaluations", "whether the loop goes on"
        case "publish":
            section = recipe.publish
            targets = [section.repo, section.folder] if section else []
            return step.step("model"), " and ".join(t for t in targets if t is not None)


def _training(recipe: Recipe, step: Step, found: dict[str, Amount]) -> tuple[str, str]:
    rows = items(recipe, step, found)
    if step.kind == "policy" and recipe.train is not None:
        role = trained_role(step)
        reads = step.step(role).rpartition("/")[2]
        past = any(name.startswith(f"{role}:") for name in step.inputs)
        reads += ", those of earlier iterations too" if past else ""
        return reads, f"{recipe.train.objective.name}: {_optimizer_steps(recipe.train, rows)}"
    section = recipe.sft if step.kind == "sft" else recipe.reward
    if section is None:
        return "", ""
    reads = name_of(section.data) if isinstance(section.data, Source) else step.step("pairs")
    return reads, _optimizer_steps(section, rows)


def _optimizer_steps(section: Sft | Reward | Train, rows: int | None) -> str:
    """`at most 157 steps of 128`; exact only where nothing is dropped."""
    batch, steps = section.global_batch_size, section.args.get("max_steps")
    if not isinstance(steps, int) or steps <= 0:
        epochs = section.args.get("num_train_epochs") or DEFAULT_EPOCHS
        if rows is None or not isinstance(epochs, (int, float)):
            return f"steps unknown, of {batch}"
        steps = math.ceil(math.ceil(rows / batch) * epochs)
    return f"at most {number(steps)} optimizer steps of {batch}"


def name_of(source: Source) -> str:
    """A source in a few words: path or name, and its split."""
    if source.mix is not None:
        return " + ".join(name_of(part) for part in source.mix)
    return f"{source.path or source.name} ({source.split})"


def plugin_name(plugin: Plugin) -> str:
    """`reward_model org/rm`; of a server's model, its name there."""
    path = plugin.options.get("path") or plugin.options.get("model")
    return f"{plugin.name} {path}" if isinstance(path, str) else plugin.name


def _names(plugins: Sequence[Plugin]) -> str:
    return ", ".join(plugin_name(each) for each in plugins)


def number(count: int | None) -> str:
    """`20,000`, or `?` where it is unknown."""
    return "?" if count is None else f"{count:,}"
