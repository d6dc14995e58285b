"""Which function does a step's work: light ones run in `align run` itself, the others in
`align.launch.KIND`.
"""

from __future__ import annotations

from collections.abc import Callable

from align.data.shards import read_records, write_part
from align.records import Prompt, Sample, Score
from align.stages.evaluating import summarise_scores
from align.stages.folder import RunFolder
from align.stages.generating import expected_parts
from align.stages.informative import keep_informative
from align.stages.manifest import Result, read_result
from align.stages.prompting import make_prompts
from align.stages.sampling import count_samples, count_scores, pair, select
from align.stages.step import Step
from align.stages.steps import SHARDED_KINDS
from align.stages.verdict import decide

Body = Callable[[RunFolder, Step], Result]


def in_process(step: Step) -> Body | None:
    """The body of a step that loads no model and starts no process; None for all others."""
    if step.kind == "pair" and "judge" in step.section:
        return None
    if step.kind == "prompts" and "stored" in step.section:
        return None
    if step.kind == "evaluate" and "policy" in step.inputs:
        return None
    light: dict[str, Body] = {
        "prompts": make_prompts,
        "select": select,
        "pair": pair,
        "evaluate": summarise_scores,
        "informative": keep_informative,
        "stop": lambda run, step: decide(run.out, step),
    }
    return light.get(step.kind)


def idle(run: RunFolder, step: Step) -> Body | None:
    """The body of a sampling or scoring step that has no prompts: of a refill that is not needed.
    None for all others.
    """
    if step.kind not in SHARDED_KINDS or read_records(run.input_folder(step, "prompts"), Prompt):
        return None
    return _write_nothing


def _write_nothing(run: RunFolder, step: Step) -> Result:
    folder = run.folder(step.name)
    for index in range(expected_parts(run, step)):
        if step.kind == "generate":
            write_part(folder, index, [], Sample)
        else:
            write_part(folder, index, [], Score)
    return Result()


def collect(run: RunFolder, step: Step) -> Result:
    """What goes into the manifest of a step whose files are complete."""
    if step.kind == "generate":
        return count_samples(run, step)
    if step.kind == "score":
        return count_scores(run, step)
    return read_result(run.folder(step.name))
