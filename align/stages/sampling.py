"""Bodies of the stages that fill record folders from other records: generate, score, select,
pair.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from align.candidates import Explained, Explains, shuffled
from align.data.shards import parts, read_columns, read_records, write_part
from align.errors import DataError, StageError
from align.pairing.margins import above_quantile
from align.progress import Progress, counted_as_work
from align.records import Json, Judgement, Pair, Prompt, Sample, Score, derive_seed
from align.registry import build
from align.rewards.ledger import FOLDER, read_usage
from align.rewards.overdue import is_late
from align.rewards.protocol import Group, Judge, Reward, Scorer
from align.rewards.sources import open_judge, weigh_sources
from align.stages.cache import known_scores
from align.stages.engine import read_restarts
from align.stages.folder import RunFolder
from align.stages.kept import Kept
from align.stages.leases import Claims, Shard
from align.stages.manifest import Result, read_result, write_result
from align.stages.steps import Step

SHARD_PROMPTS = 256
"""Prompts a shard: at most this many are sampled or scored again after a kill."""


def shards(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    """The prompts in shards of fixed size, whatever the number of workers; an empty one of none."""
    cut = [prompts[i : i + SHARD_PROMPTS] for i in range(0, len(prompts), SHARD_PROMPTS)]
    return cut or [prompts]


def groups_of(prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[Group]:
    """The samples by prompt, in the prompts' order; prompts without a sample are left out."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.prompt_id, []).append(sample)
    for group in found.values():
        group.sort(key=lambda sample: sample.index)
    return [Group(p, tuple(found[p.prompt_id])) for p in prompts if p.prompt_id in found]


def score(run: RunFolder, step: Step, worker: int = 0) -> None:
    """Scores every sample; part i holds the scores of shard i of the prompts. Workers with other
    numbers may share them; returns when all parts are there.
    """
    prompts = read_records(run.input_folder(step, "prompts"), Prompt)
    samples = read_records(run.input_folder(step, "samples"), Sample)
    folder, cut = run.folder(step.name), shards(prompts)
    wanted = [Shard(folder, index) for index in range(len(cut))]
    left = sum(not shard.is_made for shard in wanted)
    everything = {group.prompt.prompt_id: group for group in groups_of(prompts, samples)}
    known = known_scores(folder, list(everything.values()))
    if known:
        write_result(folder, Result({"groups_from_cache": len(known)}))
    scorer: Scorer | None = None
    try:
        with Progress(folder, "scoring", total=left, unit="shards", worker=worker) as bar:
            for lease in Claims().over(wanted):
                names = [prompt.prompt_id for prompt in cut[lease.shard.index]]
                groups = [everything[name] for name in names if name in everything]
                unknown = [group for group in groups if group.prompt.prompt_id not in known]
                if unknown and scorer is None:
                    scorer = _reward(run, step).open()
                with counted_as_work(folder):
                    found = iter(scorer.score(unknown) if scorer is not None and unknown else [])
                scores = [
                    one
                    for group in groups
                    for one in (known.get(group.prompt.prompt_id) or next(found))
                ]
                write_part(folder, lease.shard.index, scores, Score)
                bar.advance(note=f"{len(scores)} samples a shard")
    finally:
        if scorer is not None:
            scorer.close()


def _reward(run: RunFolder, step: Step) -> Reward:
    own = run.input_folder(step, "reward") if "reward" in step.inputs else None
    policy = run.weights(step.inputs["tokenizer"]).base if "tokenizer" in step.inputs else None
    sections = cast("list[dict[str, Json]]", step.section["sources"])
    return weigh_sources(sections, own=own, policy=policy, place=_place(run, step))


def _place(run: RunFolder, step: Step) -> dict[str, Json]:
    """Where rewards that ask a server keep their answers, what they cost, and the server's log."""
    shared = run.recipe.run.cache
    return {
        "answers": str((run.out if shared is None else Path(shared)) / "answers"),
        "usage": str(run.folder(step.name) / FOLDER),
        "log": str(run.out / "logs" / f"{step.name.replace('/', '.')}.vllm"),
    }


def scored_groups(run: RunFolder, step: Step) -> list[Group]:
    """What a score step scores; nothing for other kinds."""
    if step.kind != "score":
        return []
    prompts = read_records(run.input_folder(step, "prompts"), Prompt)
    return groups_of(prompts, read_records(run.input_folder(step, "samples"), Sample))


def count_scores(run: RunFolder, step: Step) -> Result:
    """Counts over all parts, for the manifest."""
    scores = read_columns(run.folder(step.name), Score, "sample_id", "value", "error")
    values = [value for _, value, _ in scores if value is not None]
    counts = {"scores": len(scores), "failed": len(scores) - len(values)}
    counts["timed_out"] = sum(value is None and is_late(error) for _, value, error in scores)
    if scores and not values:
        raise StageError(f"all {len(scores)} samples failed to be scored: {scores[0][2]}")
    by_group: dict[str, list[float]] = {}
    groups = dict(read_columns(run.input_folder(step, "samples"), Sample, "sample_id", "prompt_id"))
    for name, value, _ in scores:
        if value is not None:
            by_group.setdefault(groups[name], []).append(value)
    counts["all_equal_groups"] = sum(len(g) > 1 and min(g) == max(g) for g in by_group.values())
    counts["groups"] = len(by_group)
    counts |= read_result(run.folder(step.name)).counts
    metrics = {"mean_score": sum(values) / len(values)} if values else {}
    asked, measured = read_usage(run.folder(step.name))
    return Result(counts | asked, metrics | measured)


def count_samples(run: RunFolder, step: Step) -> Result:
    """Counts over all parts, for the manifest."""
    folder = run.folder(step.name)
    samples = read_columns(folder, Sample, "prompt_id", "completion_ids", "logps", "finish")
    prompts = (
        read_columns(run.input_folder(step, "prompts"), Prompt, "prompt_id")
        if "prompts" in step.inputs
        else []
    )
    sampled = {prompt for prompt, _, _, _ in samples}
    if not samples and prompts:
        raise StageError(
            f"none of {len(prompts)} prompts has a sample: each is longer than the model's context "
            "allows, or unknown to the stored samples; lower max_new_tokens or give other prompts"
        )
    tokens = sum(len(completion) for _, completion, _, _ in samples)
    counts = {
        "samples": len(samples),
        "prompts_without_samples": sum(prompt not in sampled for (prompt,) in prompts),
        "truncated": sum(finish == "length" for _, _, _, finish in samples),
        "without_logps": sum(logps is None for _, _, logps, _ in samples),
        "tokens": tokens,
        "engine_restarts": read_restarts(folder),
        **read_result(folder).counts,
    }
    return Result(counts, {"mean_tokens": tokens / len(samples)} if samples else {})


def select(run: RunFolder, step: Step) -> Result:
    """Keeps samples by the rule; the folder holds the kept samples' scores, in the rule's order."""
    rule = build("selection", _options(step))
    kept: list[Score] = []
    tally = Kept()
    for group, scores, rng in _scored_groups(run, step):
        if isinstance(rule, Explains):
            explained = rule.explain(group.samples, scores, rng)
        else:
            explained = Explained(rule(group.samples, scores, rng))
        kept += tally.add(group.samples, scores, explained)
    if not kept:
        counted = ", ".join(
            f"{number:,} {name.replace('_', ' ')}" for name, number in tally.counts.items()
        )
        raise StageError(
            f"no sample is kept ({counted}); change the options of select, or look at the scores "
            "and at how many samples are truncated"
        )
    write_part(run.folder(step.name), 0, kept, Score)
    return tally.result()


def pair(run: RunFolder, step: Step) -> Result:
    """Pairs samples by the rule, prompt by prompt; a judge's matrices are kept in `judgements/`."""
    options = _options(step)
    section = cast("dict[str, Json] | None", options.pop("judge", None))
    quantile = cast("float | None", options.pop("drop_quantile", None))
    rule = build("pairing", options)
    judge = open_judge(section, _place(run, step)) if section is not None else None
    pairs: list[Pair] = []
    judgements: list[Judgement] = []
    counts: Counter[str] = Counter()
    try:
        scored = _scored_groups(run, step, judged=judge is not None)
        for (group, scores, rng), matrix in zip(scored, _matrices(scored, judge), strict=True):
            values = [one.value for one in scores if one.value is not None]
            found = rule(group.samples, scores, matrix, rng)
            counts["prompts"] += 1
            counts["all_equal"] += len(values) > 1 and min(values) == max(values)
            counts["without_pair"] += not found
            counts["single_samples"] += len(group.samples) < 2
            counts["truncated"] += sum(sample.finish == "length" for sample in group.samples)
            counts["failed_scores"] += len(scores) - len(values)
            met = {name for one in found for name in (one.chosen, one.rejected)}
            counts["unpaired_samples"] += len(group.samples) - len(met)
            if matrix is not None:
                judgements.append(_judgement(group, matrix))
                counts["failed_judgements"] += (
                    sum(math.isnan(p) for row in matrix for p in row) // 2
                )
            pairs += found
    finally:
        if judge is not None:
            judge.close()
    if quantile is not None:
        stays = above_quantile([one.margin for one in pairs], quantile)
        counts["below_quantile"] = stays.count(False)
        pairs = [one for one, is_kept in zip(pairs, stays, strict=True) if is_kept]
    counts["pairs"] = len(pairs)
    if not pairs:
        raise StageError(
            f"no pair was made from {counts['prompts']} prompts ({counts['all_equal']} with equal "
            f"scores, {counts['single_samples']} of one sample, {counts['truncated']} truncated "
            f"samples, {counts['failed_scores']} failed scores): {_remedy(counts, step.section)}"
        )
    if judgements:
        write_part(run.folder(step.name) / "judgements", 0, judgements, Judgement)
    write_part(run.folder(step.name), 0, pairs, Pair)
    asked, measured = read_usage(run.folder(step.name))
    margin = {"mean_margin": sum(one.margin for one in pairs) / len(pairs)}
    return Result(dict(counts) | asked, margin | measured)


def _remedy(counts: Counter[str], section: Mapping[str, Json]) -> str:
    """What to change where no prompt made a pair: all that its causes may ask for."""
    source = "reward" if "judge" not in section else "judge"
    found: list[str] = []
    if counts["failed_scores"] or counts["failed_judgements"]:
        found.append(f"see why the {source} failed")
    if counts["single_samples"]:
        found.append("give each prompt two samples or more (generate.n, select.keep)")
    if counts["truncated"] and section.get("truncated") != "keep":
        found.append("raise generate.max_new_tokens, or set pair.truncated: keep")
    if section.get("min_margin"):
        found.append("lower pair.min_margin")
    if section.get("between") == "samplers":
        found.append(
            "the best samples of two samplers make a pair where their scores differ: let two that "
            f"differ more (policy, temperature) draw for each prompt, or look at the {source}"
        )
    elif counts["all_equal"] or not found:
        found.append(
            "two samples of a prompt make a pair where their scores differ: look at the "
            f"{source}, or raise generate.n"
        )
    return "; ".join(found)


def _matrices(
    scored: Sequence[tuple[Group, list[Score], random.Random]], judge: Judge | None
) -> Iterator[list[list[float]] | None]:
    """Each group's preferences, a shard of groups at a time, so that a judge has much to do at
    once.
    """
    for start in range(0, len(scored), SHARD_PROMPTS):
        shard = [group for group, _, _ in scored[start : start + SHARD_PROMPTS]]
        yield from [None] * len(shard) if judge is None else judge.preferences(shard)


def _judgement(group: Group, matrix: Sequence[Sequence[float]]) -> Judgement:
    names = tuple(sample.sample_id for sample in group.samples)
    return Judgement(group.prompt.prompt_id, names, tuple(tuple(row) for row in matrix))


def _options(step: Step) -> dict[str, object]:
    return {k: v for k, v in step.section.items() if k not in ("seed", "iteration")}


def _scored_groups(
    run: RunFolder, step: Step, *, judged: bool = False
) -> list[tuple[Group, list[Score], random.Random]]:
    """Each prompt's samples shuffled by its own seed; `judged` ones need no score to be used."""
    prompts = read_records(run.input_folder(step, "prompts"), Prompt)
    samples = [s for name in step.steps("samples") for s in read_records(run.folder(name), Sample)]
    if judged and _are_unscored(run, step.step("scores")):
        by_id = {sample.sample_id: Score(sample.sample_id, 0.0) for sample in samples}
    else:
        scored = [one for name in step.steps("scores") for one in read_scores(run, name)]
        by_id = {one.sample_id: one for one in scored}
    if "selected" in step.inputs:
        kept = {
            one.sample_id: i
            for i, one in enumerate(read_records(run.input_folder(step, "selected"), Score))
        }
        samples = sorted(
            (s for s in samples if s.sample_id in kept), key=lambda s: kept[s.sample_id]
        )
        grouped = [
            Group(g.prompt, tuple(sorted(g.samples, key=lambda s: kept[s.sample_id])))
            for g in groups_of(prompts, samples)
        ]
    else:
        grouped = groups_of(prompts, samples)
    found = []
    for group in grouped:
        # No rule may depend on which sampler came first, so each prompt's samples meet it shuffled.
        rng = random.Random(
            derive_seed(
                step.section["seed"],
                step.section.get("iteration"),
                step.kind,
                group.prompt.prompt_id,
            )
        )
        samples_now = shuffled(group.samples, rng)
        scores = [by_id.get(s.sample_id) or _unscored(s) for s in samples_now]
        found.append((Group(group.prompt, tuple(samples_now)), scores, rng))
    return found


def _unscored(sample: Sample) -> Score:
    """Of a stored sample that came without a score, where others of its store have one."""
    return Score(sample.sample_id, None, error="stored without a score")


def read_scores(run: RunFolder, step_name: str) -> list[Score]:
    """The scores of a score step, or those that came with stored samples. Raises `DataError` where
    these came with none.
    """
    folder = run.folder(step_name)
    if _are_unscored(run, step_name):
        raise DataError(
            f"the stored samples in {folder} came without scores; add a `score` section to the "
            "recipe, or store a score with each"
        )
    return read_records(folder / "scores" if _is_sampling(run, step_name) else folder, Score)


def _are_unscored(run: RunFolder, step_name: str) -> bool:
    """Whether the samples themselves are to give the scores, and have none."""
    return _is_sampling(run, step_name) and not parts(run.folder(step_name) / "scores")


def _is_sampling(run: RunFolder, step_name: str) -> bool:
    return any(step.kind == "generate" for step in run.steps() if step.name == step_name)
