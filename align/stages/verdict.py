"""When the loop ends and whose policy it results in (`run.stop`, `publish.model`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from align.recipe.sections import LoopStop, Recipe
from align.records import Json
from align.stages.manifest import Manifest, Result, read_manifest
from align.stages.step import Step, Verdict


@dataclass(frozen=True)
class Measured:
    """One evaluated policy: the first one (`start`) or an iteration's."""

    name: str
    held_out: float
    """Mean held-out score."""
    tokens: float
    """Mean tokens of a completion."""
    kl: float | None = None
    """To the first policy; None for that one itself."""
    training: float | None = None
    """Mean score of the samples that the iteration drew, before its update."""


def judge(stop: LoopStop, points: Sequence[Measured]) -> Verdict | None:
    """The verdict after the newest of these policies, or None where it is within all bounds.

    `points` are in order, the first policy first; all but the newest were within the bounds.
    """
    start, newest = points[0], points[-1]
    reasons: list[str] = []
    kept = len(points) - 2
    if stop.kl is not None and newest.kl is not None and newest.kl > stop.kl:
        reasons.append(f"the KL to the first policy is {newest.kl:.4g} nats, above {stop.kl:g}")
    growth = newest.tokens / max(start.tokens, 1e-9)
    if stop.length_growth is not None and growth > stop.length_growth:
        reasons.append(
            f"completions have {growth:.4g} times the first policy's tokens "
            f"({newest.tokens:.1f} to {start.tokens:.1f}), above {stop.length_growth:g}"
        )
    falls = _falls(points)
    if stop.held_out_falls is not None and falls >= stop.held_out_falls:
        before = points[len(points) - 1 - falls]
        when = "iteration" if falls == 1 else f"{falls} iterations"
        reasons.append(
            f"the held-out score fell ({before.held_out:.4g} to {newest.held_out:.4g}) while the "
            f"training score rose, in the last {when}"
        )
        kept = len(points) - 1 - falls
    if not reasons:
        return None
    return Verdict(len(points) - 2, points[kept].name, "; ".join(reasons))


def _falls(points: Sequence[Measured]) -> int:
    """Iterations at the end, in a row, in which held-out fell while training rose."""
    count = 0
    for before, after in zip(reversed(points[:-1]), reversed(points[1:]), strict=True):
        if before.training is None or after.training is None:
            return count
        if not (after.held_out < before.held_out and after.training > before.training):
            return count
        count += 1
    return count


def decide(out: Path, step: Step) -> Result:
    """Body of the stop step: what was measured, and the verdict."""
    stop = LoopStop.model_validate(step.section)
    points = _points(out, step)
    found = judge(stop, points)
    newest = points[-1]
    metrics: dict[str, Json] = {
        "held_out": newest.held_out,
        "length_growth": newest.tokens / max(points[0].tokens, 1e-9),
        **({} if newest.kl is None else {"kl": newest.kl}),
        **({} if newest.training is None else {"training": newest.training}),
    }
    if found is not None:
        metrics |= {"why": found.why, "kept": found.kept}
    return Result({"stopped": int(found is not None)}, metrics)


def read_verdict(recipe: Recipe, out: Path) -> Verdict:
    """What the finished steps of a run folder decided so far."""
    found = Verdict()
    if recipe.run.stop is not None:
        for index in range(recipe.run.iterations):
            manifest = read_manifest(out / _folder(index) / "stop")
            if manifest is not None and manifest.counts["stopped"]:
                found = Verdict(index, str(manifest.metrics["kept"]), str(manifest.metrics["why"]))
                break
    if recipe.publish is None or recipe.publish.model == "last" or recipe.train is None:
        return found
    last = recipe.run.iterations - 1
    if found.kept is not None:
        last = -1 if found.kept == "start" else int(found.kept.removeprefix("iter-"))
    names = ["start", *(_folder(index) for index in range(last + 1))]
    scores: dict[str, float] = {}
    for name in names:
        manifest = read_manifest(out / name / "eval" / "summary")
        if manifest is not None:
            scores[name] = _mean(manifest, "score")
    if len(scores) < len(names):
        return found
    return Verdict(found.last, max(scores, key=lambda name: scores[name]), found.why)


def _folder(index: int) -> str:
    return f"iter-{index:03d}"


def _points(out: Path, step: Step) -> list[Measured]:
    names = [role.partition(":")[2] for role in step.inputs if role.startswith("summary:")]
    points: list[Measured] = []
    for name in names:
        manifest = _finished(out, step.step(f"summary:{name}"))
        kl = _mean(manifest, "kl") if "kl" in manifest.metrics else None
        means = [_finished(out, one) for one in step.steps(f"scores:{name}")]
        points.append(
            Measured(
                name,
                _mean(manifest, "score"),
                _mean(manifest, "tokens"),
                kl,
                _training(means) if means else None,
            )
        )
    return points


def _training(rounds: Sequence[Manifest]) -> float | None:
    """Mean score over all samples of an iteration's rounds."""
    counts = [one.counts["scores"] - one.counts["failed"] for one in rounds]
    sums = [
        count * float(cast(float, one.metrics["mean_score"]))
        for count, one in zip(counts, rounds, strict=True)
        if count
    ]
    return sum(sums) / sum(counts) if sum(counts) else None


def _finished(out: Path, name: str) -> Manifest:
    manifest = read_manifest(out / name)
    assert manifest is not None, f"{name} is read before it is finished"
    return manifest


def _mean(manifest: Manifest, name: str) -> float:
    value = manifest.metrics[name]
    return float(
        cast("dict[str, float]", value)["mean"] if isinstance(value, dict) else cast(float, value)
    )
