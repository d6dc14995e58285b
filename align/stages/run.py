"""The order of a run: each step once; skipped where its key matches, refused where its inputs
changed (prompts only where their rows did), else resumed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from align.data.shards import whole_or_absent
from align.errors import AlignError, InputsChanged, SetupError, StageError
from align.recipe.load import resolved_yaml
from align.stages.bodies import in_process
from align.stages.commands import Launch
from align.stages.crew import Crew
from align.stages.folder import RunFolder
from align.stages.forks import Forks
from align.stages.lock import locked
from align.stages.making import Maker, Screen, clear
from align.stages.manifest import Manifest, changed, content_of, write_manifest
from align.stages.nodes import Nodes
from align.stages.redo import steps_to_redo
from align.stages.steps import Step, plan

_AGAIN = ".again"
"""Folder of the run in which rows are made anew to be compared; never there for long."""
_ITERATIONS = "section.iterations"
_FIXED_LENGTH = (
    "Without prompts.per_iteration each iteration takes its share of all prompts, so that the "
    "number of iterations (run.iterations) is fixed when a run begins; with it a run can be given "
    "more. "
)


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    done: int
    skipped: int


def run_recipe(run: RunFolder, launch: Launch, screen: Screen, redo: Sequence[str] = ()) -> Outcome:
    """Brings the run folder to the state the recipe describes; raises `AlignError`, also where the
    folder can no longer be read or written.
    """
    forks = Forks(run.out / "logs" / "forks.log", screen.say)
    crew = Crew(run.recipe.run.patience, start=forks.start)
    try:
        if launch.node_rank > 0:
            with Nodes(run.out, launch.nodes, launch.node_rank) as nodes, closing(forks), crew:
                return _follow(Maker(run, launch, screen, nodes, crew, forks))
        # Locked first: where a run is under way here, its nodes must not hear of this one.
        with (
            locked(run.out),
            Nodes(run.out, launch.nodes, launch.node_rank) as nodes,
            closing(forks),
            crew,
        ):
            return _lead_and_dismiss(Maker(run, launch, screen, nodes, crew, forks), redo)
    except BrokenPipeError:  # the screen's reader is gone; the folder is as it should be
        raise
    except OSError as error:
        raise _of_the_disk(run, error) from error


def _lead_and_dismiss(maker: Maker, redo: Sequence[str]) -> Outcome:
    nodes = maker.nodes
    try:
        outcome = _lead(maker, redo)
    except AlignError as error:
        nodes.dismiss(error.exit_status, " ".join(str(error).split()))
        raise
    except KeyboardInterrupt:
        nodes.dismiss(130, "interrupted")
        raise
    except OSError as error:
        nodes.dismiss(StageError.exit_status, str(_of_the_disk(maker.run, error)))
        raise
    nodes.dismiss(0)
    return outcome


def _of_the_disk(run: RunFolder, error: OSError) -> StageError:
    """What a full disk, a missing permission or the like means for the run."""
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    # A write to an open file does not know its name.
    where = str(error.filename) if error.filename is not None else f"somewhere in {run.out}"
    return StageError(
        f"{where}: {what}; kept are the steps that are finished and the parts of this one that are "
        "whole: make room or mend the folder, and the same command goes on from there"
    )


def _lead(maker: Maker, redo: Sequence[str]) -> Outcome:
    run = maker.run
    steps = run.steps()
    redone = steps_to_redo(steps, redo)
    for step in steps:
        if step.name not in redone.gone:
            _refuse_if_changed(maker, step)
    for step in steps:  # only now: a step that refuses leaves everything as it was
        if step.name in redone.gone:
            clear(run, step)
    with whole_or_absent(run.out / "recipe.yaml") as temporary:
        temporary.write_text(resolved_yaml(run.recipe))
    made: set[str] = set()
    index = 0
    # What is finished decides what is left: a stop ends the loop. It changes nothing that lies
    # before the step that comes next.
    while index < len(steps := run.steps()):
        step = steps[index]
        index += 1
        if step.name in made:
            continue
        _refuse_if_changed(maker, step)
        manifest = run.manifest(step.name)
        why = _why_published_again(run, step, manifest)
        if why:
            maker.screen.say(f"{step.name} is done again: {why}")
        elif manifest is not None:
            maker.screen.skipped(step, manifest)
            continue
        batch = _batch(run, steps[index - 1 :])
        keys = {one.name: maker.prepare(one, anew=one.name in redone.named) for one in batch}
        # A step that is done again is made, not taken from where its last content may lie.
        new = [one for one in batch if one.name not in redone.named]
        fetched = [one.name for one in new if maker.fetch(one, keys[one.name])]
        left = [one for one in batch if one.name not in fetched]
        if left:
            maker.make(left, keys)
        made |= set(keys)
    return Outcome(len(made), len(steps) - len(made))


def _follow(maker: Maker) -> Outcome:
    """On the other nodes: their part of what the first node announces, until it dismisses them."""
    run, nodes, done = maker.run, maker.nodes, 0
    steps = {step.name: step for step in plan(run.recipe)}
    while True:
        order = nodes.next_order()
        if order.exit_status == 0:
            return Outcome(done, 0)
        if order.exit_status is not None:
            raise order.failure()
        try:
            if (run.out / "recipe.yaml").read_text() != resolved_yaml(run.recipe):
                raise SetupError(
                    f"{run.out}/recipe.yaml, which node 0 wrote, is not this node's recipe; type "
                    "the same command on every node"
                )
            batch = [steps[name] for name in order.steps]
            maker.execute(batch)
        except (AlignError, KeyboardInterrupt, OSError) as error:
            nodes.report(" ".join(str(error).split()) or "interrupted")
            raise
        nodes.report()
        done += len(batch)


def _refuse_if_changed(maker: Maker, step: Step) -> None:
    run = maker.run
    manifest = run.manifest(step.name)
    if manifest is None or step.kind == "publish" or not _ready(run, step):
        return
    key = run.key(step)
    if manifest.key != key:
        names = changed(manifest.key, key)
        counts = _counts_of_same_rows(run, step, manifest, names)
        if counts is not None:
            write_manifest(run.folder(step.name), replace(manifest, key=key, counts=counts))
            maker.screen.say(
                f"{step.name} is kept, its rows are the same; changed: {', '.join(names)}"
            )
            return
        fixed = _FIXED_LENGTH if [name.split()[0] for name in names] == [_ITERATIONS] else ""
        raise InputsChanged(
            f"{run.folder(step.name)} was made from other inputs; changed: {', '.join(names)}. "
            f"{fixed}Give a new output folder (--out DIR), or redo it and what follows from it "
            f"(--redo {step.name})"
        )


def _counts_of_same_rows(
    run: RunFolder, step: Step, manifest: Manifest, names: Sequence[str]
) -> Mapping[str, int] | None:
    """What making prompts anew counts where it gives the rows that are there; None where it does
    not, and for all other steps.

    Rows appended to a file change the key of every iteration's prompts, but perhaps no row of those
    that are finished, so that the run can go on to the new ones.
    """
    body = in_process(step)
    is_files_alone = all(name.startswith("files.") for name in names)
    if step.kind != "prompts" or body is None or not is_files_alone:
        return None
    place = run.folder(_AGAIN)
    if place.exists():  # an attempt was killed
        shutil.rmtree(place)
    place.mkdir()
    try:
        again = replace(step, name=f"{_AGAIN}/{step.name}")
        result = body(run, again)
        return result.counts if content_of(run.folder(again.name)) == manifest.content else None
    finally:
        shutil.rmtree(place)


def _why_published_again(run: RunFolder, step: Step, manifest: Manifest | None) -> str:
    """What changed since the result was published; empty for other steps, and where nothing did.

    Publishing is the end of a run: no step reads it, and a run that got longer has another result.
    So it follows by itself where other steps refuse.
    """
    if manifest is None or step.kind != "publish" or manifest.key == (key := run.key(step)):
        return ""
    before, now = manifest.metrics.get("step"), step.step("model")
    if before != now:
        return f"published was {before}, and the run now results in {now}"
    return f"changed: {', '.join(changed(manifest.key, key))}"


def _batch(run: RunFolder, steps: Sequence[Step]) -> list[Step]:
    """The next step, and the sampling steps right behind it that the same engine start can
    serve.
    """
    batch = [steps[0]]
    if steps[0].kind != "generate" or not _weights(steps[0]):
        return batch
    for step in steps[1:]:
        waiting = step.kind == "generate" and run.manifest(step.name) is None and _ready(run, step)
        if not waiting or _weights(step) != _weights(steps[0]):
            break
        batch.append(step)
    return batch


def _weights(step: Step) -> dict[str, str]:
    return {role: name for role, name in step.inputs.items() if role.startswith("policy")}


def _ready(run: RunFolder, step: Step) -> bool:
    names = [
        name.removeprefix("step:") for name in step.inputs.values() if name.startswith("step:")
    ]
    return all(run.manifest(name) is not None for name in names)
