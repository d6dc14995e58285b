"""When the loop ends and which policy it results in."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.recipe.sections import LoopStop, Recipe
from align.records import Json
from align.stages.manifest import Manifest, write_manifest
from align.stages.step import Verdict
from align.stages.steps import plan
from align.stages.verdict import Measured, decide, judge, read_verdict

START = Measured("start", held_out=1.0, tokens=10.0)


def _after(number: int, held_out: float, **more: float) -> Measured:
    values: dict[str, float] = {"tokens": 10.0, "kl": 1.0, "training": float(number)} | more
    return Measured(f"iter-{number:03d}", held_out, **values)


def test_within_all_bounds_the_loop_goes_on() -> None:
    stop = LoopStop(kl=2.0, length_growth=1.5, held_out_falls=1)
    assert judge(stop, [START, _after(0, 1.2, kl=2.0, tokens=15.0)]) is None


def test_kl_and_length_keep_the_policy_before() -> None:
    one = _after(0, 1.2)
    found = judge(LoopStop(kl=2.0), [START, one, _after(1, 1.4, kl=2.5)])
    assert found is not None and (found.last, found.kept) == (1, "iter-000")
    assert found.why == "the KL to the first policy is 2.5 nats, above 2"
    found = judge(LoopStop(length_growth=1.5), [START, _after(0, 1.2, tokens=16.0)])
    assert found is not None and (found.last, found.kept) == (0, "start")
    assert "1.6 times the first policy's tokens (16.0 to 10.0), above 1.5" in found.why


@pytest.mark.parametrize(
    ("held_out", "training", "falls", "kept"),
    [
        # by iteration; the first policy scores 1.0 and has no training score
        ([1.2, 1.1], [0.0, 0.1], 1, "iter-000"),
        ([1.2, 1.1], [0.0, 0.1], 2, None),
        ([1.3, 1.2, 1.1], [0.0, 0.1, 0.2], 2, "iter-000"),
        ([1.2, 1.1], [0.1, 0.1], 1, None),  # the training score did not rise
        ([0.9], [0.5], 1, None),  # nothing to compare the training score with
        ([1.2, 1.1, 1.15, 1.1], [0.0, 0.1, 0.2, 0.3], 2, None),  # not in a row
    ],
)
def test_held_out_falls_while_training_rises(
    held_out: list[float], training: list[float], falls: int, kept: str | None
) -> None:
    points = [START]
    for number, (value, rise) in enumerate(zip(held_out, training, strict=True)):
        points.append(_after(number, value, training=rise))
    found = judge(LoopStop(held_out_falls=falls), points)
    assert (None if found is None else found.kept) == kept


def test_the_earliest_of_several_policies_is_kept() -> None:
    """KL alone would keep iter-001, two falls keep the policy before them."""
    stop = LoopStop(kl=2.0, held_out_falls=2)
    found = judge(stop, [START, _after(0, 1.3), _after(1, 1.2), _after(2, 1.1, kl=3.0)])
    assert found is not None and found.kept == "iter-000"
    assert found.why.count(";") == 1


def _finish(out: Path, name: str, kind: str, counts: dict[str, int], **metrics: Json) -> None:
    write_manifest(out / name, Manifest(name, kind, {}, name, counts, metrics, 1.0, "2026"))


def _summary(out: Path, name: str, score: float) -> None:
    metrics: dict[str, Json] = {"score": {"mean": score}, "tokens": {"mean": 10.0}}
    metrics |= {} if name == "start" else {"kl": {"mean": 1.0}}
    _finish(out, f"{name}/eval/summary", "evaluate", {}, **metrics)


def _recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(
        {
            "run": {"iterations": 3, "stop": {"held_out_falls": 1}},
            "policy": {"path": "org/a"},
            "prompts": {
                "path": "org/b",
                "per_iteration": 4,
                "refill": {"informative": 2, "rounds": 1},
            },
            "generate": {"name": "vllm", "n": 2},
            "score": {"name": "length"},
            "pair": {"name": "max_min"},
            "train": {"objective": {"name": "dpo"}, "global_batch_size": 2},
            "evaluate": {"prompts": {"path": "org/c"}},
            "publish": {"repo": "org/d"},
            **changes,
        }
    )


def test_the_training_score_is_the_mean_over_all_rounds(tmp_path: Path) -> None:
    """Iteration 0: 3 scores of 1.0 and one of 5.0 in the refill, 2.0; iteration 1: 4 of 2.5."""
    for name, score in (("start", 1.0), ("iter-000", 1.2), ("iter-001", 1.1)):
        _summary(tmp_path, name, score)
    scores = {"iter-000": (3, 1.0), "iter-000/round-1": (1, 5.0), "iter-001": (4, 2.5)}
    for name, (count, mean) in scores.items():
        counts = {"scores": count + 1, "failed": 1}
        _finish(tmp_path, f"{name}/scores", "score", counts, mean_score=mean)
    _finish(tmp_path, "iter-001/round-1/scores", "score", {"scores": 0, "failed": 0})
    gates = [step for step in plan(_recipe()) if step.kind == "stop"]
    assert [gate.name for gate in gates] == ["iter-000/stop", "iter-001/stop", "iter-002/stop"]
    assert decide(tmp_path, gates[0]).metrics["training"] == 2.0
    result = decide(tmp_path, gates[1])
    assert result.counts == {"stopped": 1} and result.metrics["kept"] == "iter-000"
    said = "fell (1.2 to 1.1) while the training score rose, in the last iteration"
    assert said in str(result.metrics["why"])


def test_a_stop_shortens_the_plan_and_publishes_what_is_kept(tmp_path: Path) -> None:
    recipe = _recipe()
    assert read_verdict(recipe, tmp_path) == Verdict()
    _finish(tmp_path, "iter-000/stop", "stop", {"stopped": 0})
    _finish(tmp_path, "iter-001/stop", "stop", {"stopped": 1}, kept="iter-000", why="enough")
    verdict = read_verdict(recipe, tmp_path)
    assert verdict == Verdict(1, "iter-000", "enough")
    left = plan(recipe, verdict)
    assert not any(step.name.startswith("iter-002") for step in left)
    assert left[-1].inputs == {"model": "step:iter-000/checkpoint"}
    more = _recipe(run={"iterations": 9, "stop": {"held_out_falls": 1}})
    assert plan(more, read_verdict(more, tmp_path)) == left


@pytest.mark.parametrize("sft", [None, {"data": {"path": "org/e"}}])
@pytest.mark.parametrize(
    "policy",
    [{"path": "org/a"}, {"config": {"model_type": "llama"}, "tokenizer": {"path": "org/a"}}],
)
def test_a_policy_that_no_step_trained_is_not_published(
    policy: dict[str, Json], sft: dict[str, Json] | None
) -> None:
    """Nor is one of random weights that the run made itself."""
    recipe = _recipe(policy=policy, sft=sft)
    published = [
        s.inputs for s in plan(recipe, Verdict(0, "start", "enough")) if s.kind == "publish"
    ]
    assert published == ([] if sft is None else [{"model": "step:sft"}])


def test_a_gate_comes_before_the_next_iteration_is_sampled() -> None:
    names = [step.name for step in plan(_recipe())]
    assert names.index("iter-000/stop") == names.index("iter-001/prompts") - 1
    assert names.index("iter-000/stop") > names.index("iter-000/eval/summary")


@pytest.mark.parametrize(("stop", "kept"), [(False, "iter-002"), (True, "iter-000")])
def test_best_is_the_highest_held_out_score_within_the_limits(
    stop: bool, kept: str, tmp_path: Path
) -> None:
    recipe = _recipe(publish={"repo": "org/d", "model": "best"})
    scores = {"start": 1.0, "iter-000": 1.3, "iter-001": 1.2}
    for name, score in scores.items():
        _summary(tmp_path, name, score)
    if stop:
        _finish(tmp_path, "iter-001/stop", "stop", {"stopped": 1}, kept="iter-000", why="enough")
    else:
        assert read_verdict(recipe, tmp_path).kept is None, "not every policy is measured yet"
        _summary(tmp_path, "iter-002", 1.4)
    assert read_verdict(recipe, tmp_path).kept == kept
