"""Stored samples in a run: several stores, scores that are missing, prompts that are gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from align.data.shards import read_records, write_part
from align.errors import DataError, StageError
from align.recipe.sections import Recipe
from align.records import Json, Pair, Prompt, Sample, Score
from align.stages.engine import Engine
from align.stages.folder import RunFolder
from align.stages.generating import generate
from align.stages.prompting import make_prompts, take_stored_prompts
from align.stages.sampling import count_samples, pair, read_scores, select
from align.stages.steps import Step, plan

PROMPT = Prompt.of("1+1=", answer="2")


def _sample(name: str, index: int, prompt: Prompt = PROMPT) -> Sample:
    return Sample(
        sample_id=name,
        prompt_id=prompt.prompt_id,
        index=index,
        policy="",
        prompt_ids=(1,),
        completion_ids=(ord(name[0]), index),
        loss_mask=(1, 1),
        logps=None,
        text=name,
        finish="stop",
    )


def _store(folder: Path, scores: dict[str, float | None]) -> str:
    """Samples in this order; None: stored without a score."""
    samples = [_sample(name, index) for index, name in enumerate(scores)]
    write_part(folder / "samples", 0, samples, Sample)
    found = [Score(name, value) for name, value in scores.items() if value is not None]
    if found:
        write_part(folder / "scores", 0, found, Score)
    return str(folder)


def _run(tmp_path: Path, *stores: str) -> tuple[RunFolder, dict[str, Step]]:
    recipe = Recipe.model_validate(
        {
            "prompts": {"path": "unused"},
            "generate": [{"name": "stored", "path": path} for path in stores],
            "select": {"name": "best_of_n"},
        }
    )
    run = RunFolder(recipe, tmp_path / "out")
    steps: dict[str, Step] = {step.kind: step for step in plan(recipe)}
    write_part(run.folder("iter-000/prompts"), 0, [PROMPT], Prompt)
    generate(run, [steps["generate"]], Engine(tmp_path / "engine.log"))
    return run, steps


def test_two_stores_keep_their_scores_and_count_their_samples_on(tmp_path: Path) -> None:
    one = _store(tmp_path / "one", {"a": 1.0, "b": 2.0})
    two = _store(tmp_path / "two", {"c": 3.0})
    run, _ = _run(tmp_path, one, two)
    samples = read_records(run.folder("iter-000/samples"), Sample)
    assert [(s.sample_id, s.index) for s in samples] == [("a", 0), ("b", 1), ("c", 2)]
    scores = read_scores(run, "iter-000/samples")
    assert {s.sample_id: s.value for s in scores} == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_a_sample_stored_without_a_score_is_no_candidate(tmp_path: Path) -> None:
    run, steps = _run(tmp_path, _store(tmp_path / "one", {"a": 1.0, "b": None, "c": -1.0}))
    select(run, steps["select"])
    kept = read_records(run.folder("iter-000/selected"), Score)
    assert [score.sample_id for score in kept] == ["a"]


def test_a_store_without_scores_says_what_to_add(tmp_path: Path) -> None:
    run, steps = _run(tmp_path, _store(tmp_path / "one", {"a": None}))
    with pytest.raises(DataError, match="came without scores; add a `score` section"):
        select(run, steps["select"])


def test_samples_of_other_prompts_only_are_none(tmp_path: Path) -> None:
    run, steps = _run(tmp_path, _store(tmp_path / "one", {"a": 1.0}))
    write_part(run.folder("iter-000/samples"), 0, [], Sample)
    with pytest.raises(StageError, match="none of 1 prompts has a sample"):
        count_samples(run, steps["generate"])


def test_prompts_that_are_all_blank_are_an_error_with_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "blank.jsonl"
    path.write_text('{"prompt": ""}\n{"prompt": "  "}\n')
    step = Step("eval-prompts", "prompts", section={"path": str(path), "seed": 0})
    run = RunFolder(Recipe.model_validate({}), tmp_path / "out")
    with pytest.raises(DataError, match=r"eval-prompts: no prompt is left .*\(2 read, 2 empty\)"):
        make_prompts(run, step)


def test_pairs_below_a_quantile_of_all_margins_are_dropped_and_counted(tmp_path: Path) -> None:
    """Scores 0, 1, 3: margins 1, 2 and 3; of three pairs a half drops one."""
    run, _ = _run(tmp_path, _store(tmp_path / "one", {"a": 0.0, "b": 1.0, "c": 3.0}))
    section: dict[str, Json] = {"name": "all_pairs", "drop_quantile": 0.5, "seed": 0}
    inputs = {"prompts": "step:iter-000/prompts"}
    inputs |= dict.fromkeys(("samples", "scores"), "step:iter-000/samples")
    result = pair(run, Step("iter-000/pairs", "pair", inputs, section))
    assert (result.counts["pairs"], result.counts["below_quantile"]) == (2, 1)
    assert result.metrics["mean_margin"] == 2.5
    kept = read_records(run.folder("iter-000/pairs"), Pair)
    assert {(p.chosen, p.rejected): p.margin for p in kept} == {("c", "a"): 3.0, ("c", "b"): 2.0}


def test_prompts_of_all_stores_are_taken_once(tmp_path: Path) -> None:
    """The first store knows p and q, the second q and r: three prompts, all four samples."""
    stores: list[str] = []
    for name, texts in (("a", "pq"), ("b", "qr")):
        prompts = [Prompt.of(text) for text in texts]
        samples = [
            replace(_sample(f"{name}{p.prompt_id}", 0, p), text=name) for p in reversed(prompts)
        ]
        write_part(tmp_path / name / "prompts", 0, prompts, Prompt)
        write_part(tmp_path / name / "samples", 0, samples, Sample)
        stores.append(str(tmp_path / name))
    recipe = Recipe.model_validate(
        {"generate": [{"name": "stored", "path": path} for path in stores]}
    )
    run = RunFolder(recipe, tmp_path / "out")
    first, second = plan(recipe)
    counted = take_stored_prompts(run, first)
    assert counted.counts == {"prompts": 3, "in_several_stores": 1}
    taken = read_records(run.folder("iter-000/prompts"), Prompt)
    assert {p.prompt_id for p in taken} == {Prompt.of(text).prompt_id for text in "pqr"}
    generate(run, [second], Engine(tmp_path / "engine.log"))
    counts = count_samples(run, second).counts
    assert (counts["samples"], counts["prompts_without_samples"]) == (4, 0)
    assert counts["stored_of_other_prompts"] == 0


def test_stored_samples_of_other_prompts_are_counted(tmp_path: Path) -> None:
    """`prompts` asks for 1+1= alone; the store holds two samples of it and one of 2+2=."""
    other = Prompt.of("2+2=")
    samples = [_sample("a", 0), _sample("b", 1), _sample("c", 0, other)]
    write_part(tmp_path / "a" / "samples", 0, samples, Sample)
    run, steps = _run(tmp_path, str(tmp_path / "a"))
    counts = count_samples(run, steps["generate"]).counts
    assert (counts["samples"], counts["stored_of_other_prompts"]) == (2, 1)


def test_made_preferences_take_the_prompts_of_their_stores() -> None:
    """Without `prompts` anywhere, as `align check` allows."""
    stored = {"name": "stored", "path": "org/a"}
    made = {"generate": stored, "score": {"name": "length"}, "pair": {"name": "max_min"}}
    recipe = Recipe.model_validate({"reward": {"data": made, "init": "org/b"}})
    first = plan(recipe)[0]
    assert (first.name, first.section["stored"]) == ("reward-data/prompts", [stored])


@pytest.mark.parametrize(("iterations", "is_enough"), [(2, True), (3, False)])
def test_prompts_that_end_before_the_iterations_do_are_told_by_the_first(
    tmp_path: Path, iterations: int, is_enough: bool
) -> None:
    """Four prompts, two an iteration: enough for two."""
    path = tmp_path / "four.jsonl"
    path.write_text("".join(f'{{"prompt": "{letter}"}}\n' for letter in "abcd"))
    section: dict[str, Json] = {"path": str(path), "per_iteration": 2, "seed": 0, "iteration": 0}
    step = Step("iter-000/prompts", "prompts", section=section, iteration=0)
    recipe = Recipe.model_validate({"run": {"iterations": iterations}})
    run = RunFolder(recipe, tmp_path / "out")
    if is_enough:
        assert make_prompts(run, step).counts["prompts"] == 2
        return
    with pytest.raises(DataError, match="iteration 2 of 3 has no prompts left: 4 prompts, 2 an"):
        make_prompts(run, step)
    resampled = replace(step, section=section | {"resample": True})
    assert make_prompts(run, resampled).counts["prompts"] == 2


def test_prompts_of_a_reward_models_data_are_for_no_iteration(tmp_path: Path) -> None:
    """All four, before a loop of three that has prompts of its own."""
    path = tmp_path / "four.jsonl"
    path.write_text("".join(f'{{"prompt": "{letter}"}}\n' for letter in "abcd"))
    sampler = {"name": "vllm", "n": 2}
    pair = {"name": "max_min"}
    made = {"generate": sampler, "score": {"name": "length"}, "pair": pair}
    sections = {
        "run": {"iterations": 3},
        "policy": {"path": "org/a"},
        "reward": {"data": {**made, "prompts": {"path": str(path)}}},
        "prompts": {"path": "org/b", "per_iteration": 2},
        "generate": sampler,
        "score": {"name": "reward_model"},
        "pair": pair,
        "train": {"objective": {"name": "dpo"}, "global_batch_size": 2},
    }
    run = RunFolder(Recipe.model_validate(sections), tmp_path / "out")
    step = next(step for step in run.steps() if step.name == "reward-data/prompts")
    assert make_prompts(run, step).counts["prompts"] == 4
