"""Body of the import stage: human data as records, so that they train like sampled ones."""

from __future__ import annotations

from collections import Counter

from align.data.convert import kind_of, to_demonstrations, to_labelled, to_preferences
from align.data.human import import_demonstrations, import_labelled, import_preferences
from align.data.shards import write_part
from align.data.sources import read_rows
from align.errors import DataError
from align.models import load_tokenizer
from align.records import Pair, Prompt, Sample, Score
from align.stages.folder import RunFolder
from align.stages.manifest import Result, write_result
from align.stages.steps import Step


def import_human_data(run: RunFolder, step: Step) -> None:
    """Writes `prompts/`, `samples/`, `pairs/` and `scores/` inside the step's folder.

    The first row says what the rows are: preferences make pairs, labelled completions scores of +1
    and -1, demonstrations samples alone. Raises the fault of a later row of another kind.
    """
    train, policy = run.recipe.train, run.recipe.policy
    if train is None or train.data is None:
        raise DataError("the recipe has no train.data")
    left_out = Counter[str]()
    rows = read_rows(train.data, seed=run.recipe.run.seed, left_out=left_out)
    if not rows:
        raise DataError("train.data has no rows; look at its path, split and filters")
    tokenizer = load_tokenizer(run.weights(step.inputs["policy"]).base)
    template, limit = policy.chat_template if policy else None, train.max_length
    match kind_of(rows[0]):
        case "preference":
            preferences = to_preferences(rows)
            counts = preferences.counts
            records = import_preferences(preferences.rows, tokenizer, template, max_length=limit)
        case "labelled":
            labelled = to_labelled(rows)
            counts = labelled.counts
            records = import_labelled(labelled.rows, tokenizer, template, max_length=limit)
        case "demonstration" | "dialogue" | "prompt":  # of a prompt alone the row's fault is raised
            shown = to_demonstrations(rows)
            counts = shown.counts
            records = import_demonstrations(shown.rows, tokenizer, template, max_length=limit)
    folder = run.folder(step.name)
    write_part(folder / "prompts", 0, records.prompts, Prompt)
    write_part(folder / "samples", 0, records.samples, Sample)
    write_part(folder / "pairs", 0, records.pairs, Pair)
    write_part(folder / "scores", 0, records.scores, Score)
    write_result(folder, Result({**left_out, **counts, **records.counts}))
