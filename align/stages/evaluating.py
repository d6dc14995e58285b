"""Body of the evaluate stage: what a policy's held-out samples are worth, each number with its
interval.

Intervals are 95 % percentile bootstrap over prompts; the gain over the first policy is paired by
prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from align.data.shards import read_records
from align.errors import RecipeError
from align.ops.statistics import (
    Interval,
    difference_interval,
    distinct_ngrams,
    mean_interval,
    pass_at_k,
)
from align.ops.votes import vote
from align.recipe.train_sections import Vote
from align.records import Json, Sample, Score
from align.rewards.patterns import compile_pattern, extract_last
from align.stages.folder import RunFolder
from align.stages.manifest import Result
from align.stages.steps import Step

VERIFIERS = {"exact_match": (1.0, 0.0), "math_verify": (1.0, -1.0), "regex": (1.0, 0.0)}
"""Sources whose score says right or wrong, with their defaults: pass@k is reported for them."""


def summarise_scores(run: RunFolder, step: Step) -> Result:
    """Mean score and each part, pass@1 and pass@n for verifiers, length, share at the limit,
    distinct bigrams, gain.
    """
    samples = read_records(run.input_folder(step, "samples"), Sample)
    scores = {s.sample_id: s for s in read_records(run.input_folder(step, "scores"), Score)}
    scored = [(s, scores[s.sample_id]) for s in samples if scores[s.sample_id].value is not None]
    prompts = [sample.prompt_id for sample, _ in scored]
    values = [score.value or 0.0 for _, score in scored]
    metrics: dict[str, Json] = {"score": interval(mean_interval(values, prompts))}
    for label in sorted({name for _, score in scored for name in score.parts}):
        kept = [
            (p, v)
            for p, (_, score) in zip(prompts, scored, strict=True)
            if (v := score.parts.get(label)) is not None
        ]
        if kept:
            metrics[f"score/{label}"] = interval(
                mean_interval([v for _, v in kept], [p for p, _ in kept])
            )
    passed = _passed(run, step, [score for _, score in scored])
    if passed is not None:
        metrics |= _pass_at(prompts, passed)
    if "vote" in step.section:
        is_right = passed or [value > 0 for value in values]
        metrics |= _votes(Vote.model_validate(step.section["vote"]), scored, is_right)
    lengths = [len(sample.completion_ids) for sample in samples]
    metrics["tokens"] = interval(mean_interval(lengths, [sample.prompt_id for sample in samples]))
    metrics["at_limit"] = sum(sample.finish == "length" for sample in samples) / len(samples)
    metrics["distinct_2"] = distinct_ngrams([sample.completion_ids for sample in samples], 2)
    if "start" in step.inputs:
        metrics |= _gains(run, step, scored)
    counts = {
        "samples": len(samples),
        "failed_scores": len(samples) - len(scored),
        "prompts": len(set(prompts)),
    }
    return Result(counts, metrics)


def interval(found: Interval) -> dict[str, Json]:
    """`{"mean": ..., "low": ..., "high": ...}`."""
    return {"mean": found.estimate, "low": found.low, "high": found.high}


def _passed(run: RunFolder, step: Step, scores: Sequence[Score]) -> list[bool] | None:
    """Whether all verifiers that count give a sample the better of their two verdicts, whatever
    numbers these are; None where another source counts. (A sum above zero is no such sign: a
    format that is right alone is above zero, and `right: 0, wrong: -1` never is.)
    """
    scoring = next(one for one in run.steps() if one.name == step.step("scores"))
    sources = cast("list[dict[str, Json]]", scoring.section["sources"])
    best: dict[str, float] = {}
    for source in sources:
        weight = float(cast(float, source.get("weight", 1.0)))
        if not weight:
            continue
        if source["name"] not in VERIFIERS:
            return None
        right, wrong = VERIFIERS[str(source["name"])]
        ends = (float(cast(float, source.get("right", right))),)
        ends += (float(cast(float, source.get("wrong", wrong))),)
        best[str(source.get("label") or source["name"])] = max(ends) if weight > 0 else min(ends)
    return [all(one.parts.get(name) == value for name, value in best.items()) for one in scores]


def _pass_at(prompts: Sequence[str], passed: Sequence[bool]) -> dict[str, Json]:
    groups: dict[str, list[bool]] = {}
    for prompt, is_right in zip(prompts, passed, strict=True):
        groups.setdefault(prompt, []).append(is_right)
    found: dict[str, Json] = {}
    for k in sorted({1, min(map(len, groups.values()))}):
        rates = [pass_at_k(sum(group), len(group), k) for group in groups.values()]
        found[f"pass@{k}"] = interval(mean_interval(rates, list(groups)))
    return found


def _votes(
    option: Vote, scored: Sequence[tuple[Sample, Score]], passed: Sequence[bool]
) -> dict[str, Json]:
    """`majority`, and `weighted_majority` where votes are weighed: the share of prompts whose
    winner is right. A sample without a weight does not vote there.
    """
    pattern = compile_pattern(option.extract, "evaluate.vote.extract") if option.extract else None
    groups: dict[str, list[tuple[str | None, bool, float | None]]] = {}
    for (sample, score), is_right in zip(scored, passed, strict=True):
        said = extract_last(pattern, sample.text) if pattern else sample.text
        weight = 1.0
        if option.weight is not None:
            if option.weight not in score.parts:
                raise RecipeError(
                    f"names no source; there are {', '.join(sorted(score.parts)) or 'none'}",
                    key="evaluate.vote.weight",
                    remedy="give the source that label, with weight: 0",
                )
            weight = score.parts[option.weight]
        answer = None if said is None else said.strip()
        groups.setdefault(sample.prompt_id, []).append((answer, is_right, weight))
    plain = [vote([a for a, _, _ in own], [r for _, r, _ in own]) for own in groups.values()]
    found = {"majority": interval(mean_interval(plain, list(groups)))}
    if option.weight is not None:
        weighed = [
            vote(
                [a if w is not None else None for a, _, w in own],
                [r for _, r, _ in own],
                [w or 0.0 for _, _, w in own],
            )
            for own in groups.values()
        ]
        found["weighted_majority"] = interval(mean_interval(weighed, list(groups)))
    return dict(found)


def _gains(run: RunFolder, step: Step, scored: Sequence[tuple[Sample, Score]]) -> dict[str, Json]:
    """Mean score minus the first policy's, on the prompts that both were scored on; for each part
    too.
    """
    before = {s.sample_id: s for s in read_records(run.input_folder(step, "start"), Score)}
    first = [
        (sample, before[sample.sample_id])
        for sample in read_records(run.input_folder(step, "start_samples"), Sample)
        if before[sample.sample_id].value is not None
    ]
    shared = {sample.prompt_id for sample, _ in first} & {sample.prompt_id for sample, _ in scored}
    found: dict[str, Json] = {}
    labels = sorted({name for _, score in scored for name in score.parts})
    for name, read in [("gain", _value), *((f"gain/{label}", _part(label)) for label in labels)]:
        old = [(s.prompt_id, read(one)) for s, one in first if s.prompt_id in shared]
        new = [(s.prompt_id, read(one)) for s, one in scored if s.prompt_id in shared]
        if old and all(v is not None for _, v in [*old, *new]):
            found[name] = interval(
                difference_interval(
                    [v or 0.0 for _, v in old],
                    [p for p, _ in old],
                    [v or 0.0 for _, v in new],
                    [p for p, _ in new],
                )
            )
    return found


def _value(score: Score) -> float | None:
    return score.value


def _part(label: str) -> Callable[[Score], float | None]:
    def read(score: Score) -> float | None:
        return score.parts.get(label)

    return read


def merge(result: Result, metrics: Mapping[str, Json]) -> Result:
    """The result with more metrics."""
    return Result(result.counts, {**result.metrics, **metrics})
