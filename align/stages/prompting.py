"""Body of the prompts stage: read, clean, take this iteration's share."""

from __future__ import annotations

import math
from collections import Counter
from typing import cast

from align.data.convert import to_prompts
from align.data.shards import read_records, write_part
from align.data.sources import name_of, read_rows
from align.errors import DataError
from align.generation.stored import Stored
from align.recipe.sections import Prompts
from align.records import Json, Prompt, derive_seed
from align.registry import build
from align.stages.folder import RunFolder
from align.stages.generating import setting_of
from align.stages.informative import read_informative
from align.stages.manifest import Result
from align.stages.steps import Step


def make_prompts(run: RunFolder, step: Step) -> Result:
    """Writes the prompts of one iteration: disjoint from other iterations' and from the held-out
    ones.
    """
    section = dict(step.section)
    seed, iteration = int(str(section.pop("seed"))), section.pop("iteration", None)
    iterations = int(str(section.pop("iterations", 1)))
    slices = int(str(section.pop("slices", 1)))
    number = int(str(section.pop("round", 0)))
    wanted = int(str(section.pop("informative", 0)))
    source = Prompts.model_validate(section)
    if number:
        found = len(read_informative(run, step))
        if found >= wanted:
            write_part(run.folder(step.name), 0, [], Prompt)
            return Result({"informative_before": found})
    left_out = Counter[str]()
    cleaned = to_prompts(read_rows(source, seed=seed, left_out=left_out))
    counts = Counter({**left_out, **cleaned.counts})
    prompts = list(cleaned.rows)
    if "held_out" in step.inputs:
        held_out = {p.prompt_id for p in read_records(run.input_folder(step, "held_out"), Prompt)}
        kept = [p for p in prompts if p.prompt_id not in held_out]
        counts["held_out_for_evaluation"] = len(prompts) - len(kept)
        prompts = kept
    if not prompts:
        read = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise DataError(
            f"{step.name}: no prompt is left of what {name_of(source)} holds "
            f"({read or 'no rows'}); give other prompts"
        )
    if iteration is not None:
        place = (int(str(iteration)), number, slices)
        if step.iteration is not None:  # not those of a reward model's data, taken once
            _check_all_iterations(run, prompts, source, slices, iterations)
        prompts = _share(prompts, source, place, iterations, seed)
    counts["prompts"] = len(prompts)
    write_part(run.folder(step.name), 0, prompts, Prompt)
    return Result(dict(counts))


def take_stored_prompts(run: RunFolder, step: Step) -> Result:
    """The prompts that came with stored samples: each once, in the order of the stores."""
    weights = run.weights(step.inputs["policy"]) if "policy" in step.inputs else None
    prompts: dict[str, Prompt] = {}
    read = 0
    for section in cast("list[dict[str, Json]]", step.section["stored"]):
        stored = cast(Stored, build("generator", _options(section)))
        found = stored.open(weights, setting_of(run, 0)).prompts()
        read += len(found)
        for prompt in found:
            prompts.setdefault(prompt.prompt_id, prompt)
    write_part(run.folder(step.name), 0, list(prompts.values()), Prompt)
    return Result({"prompts": len(prompts), "in_several_stores": read - len(prompts)})


def _options(section: dict[str, Json]) -> dict[str, object]:
    return {name: value for name, value in section.items() if name != "policy"}


def _share(
    prompts: list[Prompt],
    source: Prompts,
    place: tuple[int, int, int],
    iterations: int,
    seed: int,
) -> list[Prompt]:
    """Those of a round of an iteration, `place` being (iteration, round, rounds an iteration)."""
    iteration, number, slices = place
    size = _size(source, prompts, iterations)
    if source.resample:
        order = sorted(prompts, key=lambda p: derive_seed(seed, iteration, p.prompt_id))
        return order[number * size : (number + 1) * size]
    begin = (iteration * slices + number) * size
    return prompts[begin : begin + size]


def _size(source: Prompts, prompts: list[Prompt], iterations: int) -> int:
    """Prompts of a round."""
    return source.per_iteration or max(1, len(prompts) // iterations)


def _check_all_iterations(
    run: RunFolder, prompts: list[Prompt], source: Prompts, slices: int, iterations: int
) -> None:
    """Raises where the run's last iteration would have no prompts: said by the first one, not after
    days of those between.
    """
    size, wanted = _size(source, prompts, iterations), run.recipe.run.iterations
    enough = math.ceil(len(prompts) / (size * slices))
    if source.resample or wanted <= enough:
        return
    rounds = f" x {slices} rounds" if slices > 1 else ""
    raise DataError(
        f"iteration {enough} of {wanted} has no prompts left: {len(prompts)} prompts, {size}"
        f"{rounds} an iteration; lower prompts.per_iteration or run.iterations, give more prompts,"
        " or set prompts.resample: true"
    )
