"""The scripts that reproduce RSO's and TOPR's claims: which runs are one, what comes of them."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from align.data.shards import write_part
from align.recipe.load import load_recipe
from align.records import Sample, Score

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The modules by name; they import each other as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("comparing", "tables", "reproduction", "reproduce_rso", "reproduce_topr")
    yield {name: importlib.import_module(name) for name in names}


def studies(scripts: dict[str, ModuleType]) -> Iterator[Any]:
    for family in ("rso", "topr"):
        for parts in scripts[f"reproduce_{family}"].TASKS.values():
            yield from (part("third") for part in parts.values())


def test_every_arm_of_every_part_is_a_recipe_and_every_claim_names_arms(
    scripts: dict[str, ModuleType],
) -> None:
    found = list(studies(scripts))
    assert len(found) == 4 + 3 + 6 + 2
    for study in found:
        keys = [study.key(arm, choice) for arm in study.arms for choice in arm.grid]
        assert len(set(keys)) == len(keys), study.name
        names = {"start", *(arm.name for arm in study.arms)}
        assert {name for claim in study.claims for name in (claim.better, claim.worse)} <= names


def test_an_arm_that_several_parts_have_is_one_run(scripts: dict[str, ModuleType]) -> None:
    """RSO with sigmoid-norm, beta .5 and the recipe's rate is in all four parts; TOPR over four
    epochs, sequence ratios and the recipe's rate in three.
    """
    rso, topr = scripts["reproduce_rso"], scripts["reproduce_topr"]
    rate = ("train.args.learning_rate=1.0e-4",)

    def key(study: Any, name: str, choice: tuple[str, ...]) -> str:
        return study.key(next(arm for arm in study.arms if arm.name == name), choice)

    wanted = {
        key(rso.ladder("third"), "rso", rate),
        key(rso.losses("third"), "sigmoid-norm", rate),
        key(rso.beta("third"), "beta 0.5", ()),
        key(rso.baselines("third"), "rso", rate),
    }
    assert len(wanted) == 1
    assert key(rso.ladder("rare"), "rso", rate) not in wanted, "another base is another run"
    wanted = {
        key(topr.collapse("third"), "topr@4", ()),
        key(topr.methods("third"), "topr", rate),
        key(topr.levels("third"), "sequence", ()),
    }
    assert len(wanted) == 1
    first, second = (
        rso.TASKS["addition"]["ladder"]("third"),
        topr.TASKS["addition"]["share"]("third"),
    )
    assert first.base_key("base") == second.base_key("base"), "both families share their bases"


def test_a_runs_line_holds_each_prompts_sum(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """Two samples a prompt. `a`: right and whole, wrong and whole; `b`: both wrong, one of three
    digits and one without an end: half of all are malformed.
    """
    samples, scores = list[Sample](), list[Score]()
    for prompt, index, text, finish, value in (
        *(("b", 0, "123", "stop", -1.0), ("b", 1, "0123", "length", -1.0)),
        *(("a", 0, "0579", "stop", 1.0), ("a", 1, "0578", "stop", -1.0)),
    ):
        one = Sample(
            sample_id=f"{prompt}{index}",
            prompt_id=prompt,
            index=index,
            policy="p",
            prompt_ids=(1,),
            completion_ids=(2, 3),
            loss_mask=(1, 1),
            logps=None,
            text=text,
            finish=finish,  # pyright: ignore[reportArgumentType]
        )
        samples.append(one)
        scores.append(Score(one.sample_id, value, {"proxy": value / 4}))
    write_part(tmp_path / "samples", 0, samples, Sample)
    write_part(tmp_path / "scores", 0, scores, Score)
    reproduction = scripts["reproduction"]
    sums = scripts["reproduce_rso"].ADDITION
    names, found = reproduction._by_prompt(tmp_path, sums)
    assert names == ["a", "b"]
    assert found == {"samples": 2, "score": [1, 0], "malformed": 0.5}
    stories = scripts["reproduce_rso"].JUDGED_STORIES
    found = reproduction._by_prompt(tmp_path, stories)[1]
    assert found == {"samples": 2, "score": [0.0, -2.0], "proxy": [0.0, -0.5]}


def test_a_claim_holds_where_its_interval_excludes_zero(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive is .5 below its base on every prompt and seed, TOPR .25 above; the best of a grid is
    what the tuning seed liked best.
    """
    comparing, topr = scripts["comparing"], scripts["reproduce_topr"]
    monkeypatch.setattr(comparing, "RESULTS", tmp_path)
    options = argparse.Namespace(seeds=[0, 1], tuning_seeds=[100])
    study = topr.collapse("third")
    values = {"start": [2, 3], "topr@8": [3, 4], "naive@8": [0, 1]}
    rows: list[dict[str, object]] = []
    for seed in (0, 1, 7):
        for name, score in values.items():
            arm = next((arm for arm in study.arms if arm.name == name), None)
            key = study.start_key() if arm is None else study.key(arm, ())
            rows.append({"key": key, "seed": seed, "role": "fresh", "samples": 4, "score": score})
    study.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = {name: comparing.values_of(study, name, options) for name in values}
    assert groups["topr@8"] == {0: [0.75, 1.0], 1: [0.75, 1.0]}, "seed 7 was not asked for"
    assert comparing.difference(groups["start"], groups["naive@8"]) == (0.5, 0.5, 0.5)
    text = "\n".join(scripts["tables"].table(study, options, "python x"))
    assert (
        "| naive falls below its base (start - naive@8) | +0.500 | [+0.500, +0.500] | 2 | holds |"
        in text
    )
    assert "| TOPR beats naive after one epoch | not run |" in text
    assert (
        "| topr@8 | `topr/tiny_topr.yaml` train.args.num_train_epochs=8 | 1 | 2 | 0.875 |" in text
    )

    methods = topr.methods("third")
    arm = methods.arms[0]
    assert comparing.chosen(methods, [], arm, [100]) is None
    tuned = [
        {
            "key": methods.key(arm, choice),
            "seed": 100,
            "role": "tuning",
            "samples": 4,
            "score": [score],
        }
        for choice, score in zip(arm.grid, (1, 3, 2), strict=True)
    ]
    assert comparing.chosen(methods, tuned, arm, [100]) == arm.grid[1]


def test_story_twins_differ_from_rso_in_their_own_step_alone() -> None:
    """One reward model, one set of held-out stories, the paper's gamma and counts."""
    folder = BENCHMARKS.parent / "recipes"
    names = ("rso", "hinge", "sft_sample_rank", "raft", "direct")
    found = {name: load_recipe(folder / "rso" / f"stories_{name}.yaml") for name in names}
    for recipe in found.values():
        assert recipe.evaluate == found["rso"].evaluate
        assert recipe.train is not None and recipe.train.global_batch_size == 16
    for name in ("hinge", "raft"):
        assert (found[name].generate, found[name].score) == (
            found["rso"].generate,
            found["rso"].score,
        )
    select = found["rso"].select
    assert select is not None and (select.options["beta"], select.options["keep"]) == (0.5, 8)
    topr, naive = (
        load_recipe(folder / "topr" / f"stories_{name}.yaml") for name in ("topr", "naive")
    )
    for section in ("policy", "prompts", "generate", "score", "evaluate"):
        assert getattr(topr, section) == getattr(naive, section)
