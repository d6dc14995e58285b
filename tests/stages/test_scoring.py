"""The score stage: a part of the folder is written when its shard is scored, and only what is
missing is scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from align.data.shards import content_hash, parts, read_part, write_part
from align.recipe.sections import Recipe
from align.records import Prompt, Sample, Score
from align.rewards import overdue
from align.stages import sampling
from align.stages.folder import RunFolder
from align.stages.sampling import count_scores, score
from align.stages.steps import plan
from tests.rewards.builders import sample_of

PROMPTS = [Prompt.of(f"{number}+1=") for number in range(5)]
CALLS: list[str] = []
"""Prompts that the reward was asked about, since a test emptied it."""


def count_characters(prompt: Prompt, samples: Sequence[Sample]) -> list[float]:
    """A `python` reward that remembers what it was asked."""
    CALLS.append(prompt.prompt_id)
    return [float(len(sample.text)) for sample in samples]


def stop_at_the_last(prompt: Prompt, samples: Sequence[Sample]) -> list[float]:
    """The same, until the run is interrupted."""
    if prompt == PROMPTS[-1]:
        raise KeyboardInterrupt
    return count_characters(prompt, samples)


@pytest.fixture
def scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, Path]:
    """A run with five sampled prompts, two a shard, and the folder of its scores."""
    monkeypatch.setattr(sampling, "SHARD_PROMPTS", 2)
    CALLS.clear()
    run = run_with("count_characters", tmp_path / "out")
    write_part(run.folder("iter-000/prompts"), 0, PROMPTS, Prompt)
    samples = [sample_of(prompt, i, "x" * (i + 1)) for prompt in PROMPTS for i in range(2)]
    write_part(run.folder("iter-000/samples"), 0, samples, Sample)
    return run, run.folder("iter-000/scores")


def run_with(function: str, out: Path) -> RunFolder:
    recipe = {
        "generate": {"name": "stored", "path": "unused"},
        "score": {"name": "python", "function": f"{__name__}.{function}"},
    }
    return RunFolder(Recipe.model_validate(recipe), out)


def score_all(run: RunFolder) -> None:
    (step,) = [step for step in plan(run.recipe) if step.kind == "score"]
    score(run, step)


def test_each_shard_is_a_part_of_its_own(scoring: tuple[RunFolder, Path]) -> None:
    """Two, two and one prompt of two samples, of one and two characters."""
    run, folder = scoring
    score_all(run)
    assert [len(read_part(path, Score)) for path in parts(folder)] == [4, 4, 2]
    assert [one.value for one in read_part(parts(folder)[2], Score)] == [1.0, 2.0]


def test_what_is_scored_is_on_disk_when_the_run_is_interrupted(
    scoring: tuple[RunFolder, Path],
) -> None:
    """The third shard fails: the first two are there whole, and the same command scores only it."""
    run, folder = scoring
    with pytest.raises(KeyboardInterrupt):
        score_all(run_with("stop_at_the_last", run.out))
    assert [len(read_part(path, Score)) for path in parts(folder)] == [4, 4]
    CALLS.clear()
    score_all(run)
    assert [PROMPTS[4].prompt_id] == CALLS
    resumed = content_hash(folder)
    for path in parts(folder):
        path.unlink()
    score_all(run)
    assert content_hash(folder) == resumed


def test_only_the_missing_shard_is_scored_again(scoring: tuple[RunFolder, Path]) -> None:
    run, folder = scoring
    score_all(run)
    before = content_hash(folder)
    parts(folder)[1].unlink()
    CALLS.clear()
    score_all(run)
    assert [prompt.prompt_id for prompt in PROMPTS[2:4]] == CALLS
    assert content_hash(folder) == before


def test_verifiers_that_ran_out_of_time_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`(x|xx)+` tries every way to cut 60 letters that something else follows."""
    monkeypatch.setattr(overdue, "SECONDS", 0.2)
    score_by = {"name": "regex", "pattern": "^(x|xx)+$"}
    recipe = {"generate": {"name": "stored", "path": "unused"}, "score": score_by}
    run = RunFolder(Recipe.model_validate(recipe), tmp_path)
    samples = [sample_of(PROMPTS[0], i, text) for i, text in enumerate(("x" * 60 + "!", "xx", "y"))]
    write_part(run.folder("iter-000/prompts"), 0, PROMPTS[:1], Prompt)
    write_part(run.folder("iter-000/samples"), 0, samples, Sample)
    score_all(run)
    (step,) = [step for step in plan(run.recipe) if step.kind == "score"]
    found = count_scores(run, step)
    assert (found.counts["scores"], found.counts["failed"], found.counts["timed_out"]) == (3, 1, 1)
    assert found.metrics["mean_score"] == 0.5
