"""Stages whose rewards ask a server: what it cost is in the manifest, answers outlive the stage,
and how it is asked is not in the key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.data.shards import read_records, write_part
from align.recipe.sections import Recipe
from align.records import Pair, Prompt, Sample, Score
from align.stages.commands import Launch, commands
from align.stages.folder import RunFolder
from align.stages.sampling import count_scores, pair, score
from align.stages.steps import Step, plan
from tests.rewards.builders import group_of
from tests.rewards.chat_stand_in import ChatStandIn
from tests.rewards.test_judge import PAIR, SHORT, prefer_longer, rate_by_length

COUNTS = ("requests", "retries", "cached_answers", "prompt_tokens", "completion_tokens")
NOTHING = dict.fromkeys(COUNTS)


def run_of(out: Path, **sections: Any) -> tuple[RunFolder, dict[str, Step]]:
    recipe = Recipe.model_validate(
        {
            "run": {"cache": sections.pop("cache", None)},
            "prompts": {"path": "unused"},
            "generate": {"name": "stored", "path": "unused"},
            **sections,
        }
    )
    group = group_of("q", None, "x", "yyy", "zz")
    run = RunFolder(recipe, out)
    write_part(run.folder("iter-000/prompts"), 0, [group.prompt], Prompt)
    write_part(run.folder("iter-000/samples"), 0, list(group.samples), Sample)
    return run, {step.kind: step for step in plan(recipe)}


def judge_of(url: str, **options: Any) -> dict[str, Any]:
    return {"name": "judge", "url": url, "model": "m", "rubric": SHORT, **options}


def test_score_stage_counts_what_it_asked_and_asks_nothing_twice(tmp_path: Path) -> None:
    """Three questions of 100 + 10 tokens at 1 and 10 a million: .0006; another run with the same
    cache has the answers."""
    requests = {"prices": {"prompt": 1.0, "completion": 10.0}}
    asked = {"requests": 3, "prompt_tokens": 300, "completion_tokens": 30}
    with ChatStandIn(rate_by_length) as server:
        section = judge_of(server.url, requests=requests)
        for name, paid, cost in (("a", asked, 0.0006), ("b", {"cached_answers": 3}, None)):
            run, steps = run_of(tmp_path / name, cache=str(tmp_path / "cache"), score=section)
            score(run, steps["score"])
            result = count_scores(run, steps["score"])
            assert (result.counts["scores"], result.counts["failed"]) == (3, 0)
            assert {name: result.counts.get(name) for name in COUNTS} == NOTHING | paid
            assert result.metrics.get("cost") == (cost if cost is None else pytest.approx(cost))
            values = [one.value for one in read_records(run.folder("iter-000/scores"), Score)]
            assert values == [1.0, 3.0, 2.0]
    assert len(server.bodies) == 3


def test_pair_stage_with_a_judge_keeps_answers_in_the_run(tmp_path: Path) -> None:
    with ChatStandIn(prefer_longer) as server:
        judge = {"name": "pairwise_judge", "url": server.url, "model": "m", "rubric": PAIR}
        rule = {"name": "tournament", "judge": judge}
        run, steps = run_of(tmp_path, pair=rule)
        write_part(
            run.folder("iter-000/samples/scores"),
            0,
            [Score(s.sample_id, 0.0) for s in read_records(run.folder("iter-000/samples"), Sample)],
            Score,
        )
        first = pair(run, steps["pair"])
        again = pair(run, steps["pair"])
    assert (first.counts["requests"], first.counts["comparisons"]) == (6, 3)
    assert first.metrics["first_slot_preferred"] == pytest.approx(0.5)
    assert again.counts["requests"] == len(server.bodies) == 6
    assert again.counts["cached_answers"] == 6
    (made,) = read_records(run.folder("iter-000/pairs"), Pair)  # of three samples two meet
    assert made.margin > 0
    assert list((tmp_path / "answers").glob("answers-*.jsonl"))


def test_key_sees_what_decides_the_answers_and_nothing_else(tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("{{ completion }}")

    def key(**options: Any) -> object:
        section = judge_of("http://h/v1", **{"rubric": {"path": str(rubric)}, **options})
        run, steps = run_of(tmp_path / "run", score=section)
        for name in ("prompts", "samples"):
            (run.folder(f"iter-000/{name}") / "manifest.json").write_text(
                '{"step": "", "kind": "", "key": {}, "content": "c", "counts": {}, "metrics": {}, '
                '"seconds": 0, "finished": ""}'
            )
        return run.key(steps["score"])

    first = key(requests={"connections": 4}, token_variable="A")
    assert first == key(requests={"connections": 8, "retries": 1}, token_variable="B")
    assert "vllm" not in str(first)  # it runs elsewhere
    others = [key(scale={"low": 0}), key(sampling={"seed": 1}), key(model="other")]
    rubric.write_text("{{ completion }}!")
    others.append(key())
    assert first not in others and all(others.count(other) == 1 for other in others)


def test_a_served_model_has_the_devices_that_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    section = {"name": "judge", "path": "org/judge", "server": {"tensor_parallel": 2}}
    run, steps = run_of(tmp_path, score=[section, {"name": "length", "weight": 0}])
    started = commands(run, [steps["score"]], Launch(tmp_path / "cpu.yaml"))
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in started] == ["0,1", "2,3"]
