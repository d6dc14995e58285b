"""Body of the informative stage: of the prompts that an iteration sampled those that tell good from
bad (DAPO's dynamic sampling).
"""

from __future__ import annotations

from collections.abc import Sequence

from align.data.shards import read_records, write_part
from align.errors import StageError
from align.records import Prompt, Sample, Score
from align.stages.folder import RunFolder
from align.stages.manifest import Result
from align.stages.step import Step


def informative_prompts(samples: Sequence[Sample], scores: Sequence[Score]) -> set[str]:
    """Prompts whose scored samples have not all the same score. Pure."""
    prompt_of = {sample.sample_id: sample.prompt_id for sample in samples}
    values: dict[str, set[float]] = {}
    for score in scores:
        if score.value is not None:
            values.setdefault(prompt_of[score.sample_id], set()).add(score.value)
    return {prompt for prompt, found in values.items() if len(found) > 1}


def read_informative(run: RunFolder, step: Step) -> set[str]:
    """The same of all rounds that the step reads."""
    found: set[str] = set()
    for samples, scores in zip(step.steps("samples"), step.steps("scores"), strict=True):
        found |= informative_prompts(
            read_records(run.folder(samples), Sample), read_records(run.folder(scores), Score)
        )
    return found


def keep_informative(run: RunFolder, step: Step) -> Result:
    """Writes the first informative prompts, as many as are wanted, in the order of the rounds."""
    wanted = int(str(step.section["informative"]))
    rounds = [read_records(run.folder(name), Prompt) for name in step.steps("prompts")]
    prompts = [prompt for one in rounds for prompt in one]
    telling = read_informative(run, step)
    found = [prompt for prompt in prompts if prompt.prompt_id in telling]
    if not found:
        raise StageError(
            f"all samples of each of {len(prompts)} prompts have one score, so nothing can be "
            "learned from them; sample more a prompt, or give prompts of another difficulty"
        )
    kept = found[:wanted]
    write_part(run.folder(step.name), 0, kept, Prompt)
    counts = {
        "informative": len(kept),
        "uninformative": len(prompts) - len(found),
        "surplus": len(found) - len(kept),
        "short": wanted - len(kept),
        "rounds": sum(1 for one in rounds if one),
    }
    return Result(counts)
