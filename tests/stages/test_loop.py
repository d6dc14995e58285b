"""The online loop for real, in this process: what the choices of a recipe do to rows and weights.

A made Llama of two layers, transformers sampling, the policy engine.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
from safetensors.torch import load_file

from align.data.shards import read_records
from align.errors import InputError, InputsChanged
from align.inference.decode import ModelDecoder
from align.publish.run import Target, publish_run
from align.recipe.sections import Recipe
from align.records import Json, Pair, Prompt, Sample, WeightsRef
from align.report.html import write_report
from align.report.screen import RichScreen
from align.report.summary import read_run
from align.stages.folder import RunFolder
from align.stages.making import Maker
from align.stages.run import Outcome
from align.stages.step import Step
from tests import one_process
from tests.one_process import in_this_process, run_in_one_process

SAMPLER = {"name": "transformers", "n": 4, "temperature": 1.0, "max_new_tokens": 3}
LOOP: dict[str, dict[str, object]] = {
    "run": {"name": "loop", "seed": 1, "iterations": 3},
    "prompts": {"name": "addition", "digits": 2, "split": "prompts", "per_iteration": 12},
    "generate": SAMPLER,
    "score": {"name": "regex", "pattern": "^[0-9]"},
    "pair": {"name": "max_min", "truncated": "keep"},
    "train": {
        "objective": {"name": "dpo", "beta": 0.5},
        "global_batch_size": 8,
        "args": {"learning_rate": 1e-2, "num_train_epochs": 1},
    },
    "evaluate": {
        "prompts": {"name": "addition", "digits": 2, "split": "test", "limit": 16},
        "generate": {**SAMPLER, "n": 2},
    },
}

Run = Callable[..., tuple[RunFolder, Outcome]]


@pytest.fixture
def run_loop(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run_loop(run={...}, out=NAME, redo=[...])`: the recipe `LOOP` with these keys changed."""

    def run_it(
        out: str = "run", redo: Sequence[str] = (), **changes: dict[str, object] | list[object]
    ) -> tuple[RunFolder, Outcome]:
        sections = {"policy": {"path": str(tiny_llama), "chat_template": "none"}, **deepcopy(LOOP)}
        for name, change in changes.items():
            whole = isinstance(change, list)
            sections[name] = change if whole else {**sections.get(name, {}), **change}
        run = RunFolder(Recipe.model_validate(sections), tmp_path / out)
        return run, run_in_one_process(run, monkeypatch, redo)

    return run_it


def facts(run: RunFolder, step: str) -> tuple[dict[str, int], dict[str, Json]]:
    """Counts and metrics of a finished step."""
    manifest = run.manifest(step)
    assert manifest is not None, f"{step} is not finished"
    return dict(manifest.counts), dict(manifest.metrics)


def test_average_reference_and_replayed_window(run_loop: Run, tiny_llama: Path) -> None:
    """History of two iterations of which earlier rows may make up a quarter, init: initial, and a
    reference of which half is kept.
    """
    history = {"window": 2, "share": 0.25}
    run, _ = run_loop(train={"reference": {"ema": 0.5}, "history": history, "init": "initial"})
    folder = run.folder
    sizes = [len(read_records(folder(f"iter-{i:03d}/pairs"), Pair)) for i in range(3)]
    assert min(sizes) > 5
    for i in (1, 2):
        counts, metrics = facts(run, f"iter-{i:03d}/checkpoint")
        most = sizes[i] // 3  # a quarter of all
        assert counts["rows_of_this_iteration"] == sizes[i]
        assert counts["rows_replayed"] == most, "every prompt has one pair, so the share is met"
        assert counts["rows_left_out_of_history"] == sizes[i - 1] - most
        assert counts["pairs"] == sizes[i] + most
        assert metrics["history"] == [f"iter-{i - 1:03d}"]
        assert metrics["init"] == str(tiny_llama)
        assert metrics["reference"] == f"iter-{i - 1:03d}/reference"
    assert "rows_replayed" not in facts(run, "iter-000/checkpoint")[0]

    def weights(place: Path) -> dict[str, object]:
        return load_file(place / "model.safetensors")

    average = weights(tiny_llama)
    for i in range(2):
        policy = weights(folder(f"iter-{i:03d}/checkpoint"))
        average = {name: 0.5 * average[name] + 0.5 * policy[name] for name in average}
        found = weights(folder(f"iter-{i:03d}/reference"))
        gaps = [float((found[name] - average[name]).abs().max()) for name in average]
        assert max(gaps) < 1e-6
        assert facts(run, f"iter-{i:03d}/reference") == ({}, {}), "the policy's are not its own"
    kls = [facts(run, f"iter-{i:03d}/eval/summary")[1]["kl"]["mean"] for i in range(3)]
    assert all(kl > 0.01 for kl in kls), "to the first policy, after every iteration"


def test_choices_of_later_iterations_leave_the_first_alone_and_the_result_is_published_anew(
    run_loop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other history, reference and start: iteration 0 has none of them yet, so it stays. What was
    published follows the run's result, and then the recipe's place, each said in one line.
    """
    said: list[str] = []
    monkeypatch.setattr(RichScreen, "say", lambda screen, text: said.append(text))
    here, there = tmp_path / "here", tmp_path / "there"
    _, first = run_loop(run={"iterations": 1}, publish={"folder": str(here)})
    assert not said
    more: dict[str, dict[str, object]] = {
        "run": {"iterations": 2},
        "train": {"reference": "previous", "history": "all"},
    }
    same, second = run_loop(**more, publish={"folder": str(here)})
    assert second.skipped == first.done - 1 and first.skipped == 0
    assert said == [
        "publish is done again: published was iter-000/checkpoint, and the run now results in "
        "iter-001/checkpoint"
    ]
    weights = (same.folder("iter-001/checkpoint") / "model.safetensors").read_bytes()
    assert (here / "model.safetensors").read_bytes() == weights
    assert facts(same, "publish")[1]["step"] == "iter-001/checkpoint"
    _, third = run_loop(**more, publish={"folder": str(there)})
    assert third == Outcome(1, first.done + second.done - 2)
    assert said[1].startswith("publish is done again: changed: section.folder (")
    assert (there / "model.safetensors").read_bytes() == weights
    _, fourth = run_loop(**more, publish={"folder": str(there)})
    assert fourth.done == 0 and len(said) == 2
    assert facts(same, "iter-001/checkpoint")[1]["reference"] == "iter-000/checkpoint"
    assert facts(same, "iter-001/checkpoint")[1]["history"] == ["iter-000"]


def test_appended_prompts_extend_a_run_whose_finished_iterations_keep_their_rows(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two iterations of eight prompts, eight more for a third; then a row before all of them, which
    moves every iteration's.
    """
    said: list[str] = []
    monkeypatch.setattr(RichScreen, "say", lambda screen, text: said.append(text))
    file, out = tmp_path / "prompts.jsonl", tmp_path / "run"
    rows = [json.dumps({"prompt": f"{number}+1="}) + "\n" for number in range(10, 34)]

    def run_it(iterations: int, written: Sequence[str]) -> tuple[RunFolder, Outcome]:
        file.write_text("".join(written))
        sections = {name: LOOP[name] for name in ("generate", "score", "pair", "train")} | {
            "run": {"iterations": iterations},
            "policy": {"path": str(tiny_llama), "chat_template": "none"},
            "prompts": {"path": str(file), "shuffle": False, "per_iteration": 8},
        }
        run = RunFolder(Recipe.model_validate(sections), out)
        return run, run_in_one_process(run, monkeypatch)

    run, first = run_it(2, rows[:16])
    before = {step.name: run.content(f"step:{step.name}") for step in run.steps()}
    assert (first.done, said) == (10, [])
    (out / ".again" / "iter-000").mkdir(parents=True)  # as an attempt that was killed leaves it
    run, second = run_it(3, rows)
    assert second == Outcome(5, 10)
    assert [line.partition(" (")[0] for line in said] == [
        f"iter-{i:03d}/prompts is kept, its rows are the same; changed: files.{file}"
        for i in range(2)
    ]
    assert all(run.content(f"step:{name}") == content for name, content in before.items())
    taken = read_records(run.folder("iter-002/prompts"), Prompt)
    assert [prompt.messages[0]["content"] for prompt in taken] == [f"{n}+1=" for n in range(26, 34)]
    assert run_it(3, rows)[1] == Outcome(0, 15) and len(said) == 2, "the kept steps have a new key"
    kept = run.manifest("iter-000/prompts")
    with pytest.raises(InputsChanged, match=r"prompts was made from .* changed: files\..*--redo"):
        run_it(3, ['{"prompt": "9+1="}\n', *rows])
    assert run.manifest("iter-000/prompts") == kept and not (out / ".again").exists()


def test_mixture_divides_prompts_and_pairs_meet_across_samplers(run_loop: Run) -> None:
    """Four samples of every prompt by the policy; two more of each prompt by one of two others."""
    run, _ = run_loop(
        run={"iterations": 2},
        generate=[
            SAMPLER,
            {**SAMPLER, "n": 2, "policy": "initial", "share": 0.5},
            {**SAMPLER, "n": 2, "temperature": 0.7, "share": 0.5},
        ],
        score=[
            {"name": "regex", "pattern": f"{digit}", "label": digit, "weight": 1 + int(digit) / 10}
            for digit in "0123456789"
        ],
        pair={"name": "max_max", "between": "samplers", "truncated": "keep"},
        train={"objective": {"name": "xpo", "beta": 0.5, "alpha": 1e-3}},
    )
    samples = read_records(run.folder("iter-001/samples"), Sample)
    assert len(samples) == 12 * 6
    kinds: dict[str, set[tuple[bool, float]]] = {}
    first = samples[0].policy  # of the current policy's own part
    for sample in samples:
        kinds.setdefault(sample.prompt_id, set()).add((sample.policy == first, sample.temperature))
    extra = [found - {(True, 1.0)} for found in kinds.values()]
    assert all(len(found) == 1 for found in extra)
    drawn = [next(iter(found)) for found in extra]
    numbers = Counter(sample.meta["sampler"] for sample in samples)
    assert numbers == {0: 48, 1: 2 * drawn.count((False, 1.0)), 2: 2 * drawn.count((True, 0.7))}
    assert set(drawn) == {(False, 1.0), (True, 0.7)}, "both samplers have prompts"
    for folder in ("iter-000", "iter-001"):
        found = read_records(run.folder(f"{folder}/samples"), Sample)
        numbers_of = {sample.sample_id: sample.meta["sampler"] for sample in found}
        pairs = read_records(run.folder(f"{folder}/pairs"), Pair)
        assert len(pairs) > 6
        assert all(
            {numbers_of[p.chosen], numbers_of[p.rejected]} in ({0, 1}, {0, 2}) for p in pairs
        )
    assert "xpo/log_prob" in facts(run, "iter-001/checkpoint")[1]


def test_refill_until_enough_prompts_are_informative(run_loop: Run) -> None:
    """Prompts of 6 a round, n = 2: about half have one right and one wrong sample. 8 are wanted."""
    prompts = {"per_iteration": 6, "refill": {"informative": 8, "rounds": 4}}
    changes = {"generate": {"n": 2}, "run": {"iterations": 2}, "prompts": prompts}
    run, _ = run_loop(**changes)
    for i in range(2):
        folder = f"iter-{i:03d}"
        places = [folder, *(f"{folder}/round-{r}" for r in range(1, 5))]
        rounds = [read_records(run.folder(f"{place}/prompts"), Prompt) for place in places]
        counts, _ = facts(run, f"{folder}/informative")
        used = counts["rounds"]
        assert [len(one) for one in rounds] == [6] * used + [0] * (5 - used) and 1 < used < 5
        assert counts["informative"] == 8 and counts["short"] == 0
        assert counts["informative"] + counts["uninformative"] + counts["surplus"] == 6 * used
        before = facts(run, f"{folder}/round-{used}/prompts")[0]["informative_before"]
        assert before == 8 + counts["surplus"], "the refill that was not needed saw enough"
        pairs = read_records(run.folder(f"{folder}/pairs"), Pair)
        assert len(pairs) == 8, "every informative prompt makes a pair of its best and worst"
        assert facts(run, f"{folder}/checkpoint")[0]["pairs"] == 8
    prompts = [
        prompt.prompt_id
        for path in run.out.glob("iter-*/**/prompts")
        for prompt in read_records(path, Prompt)
    ]
    assert len(set(prompts)) == len(prompts), "no prompt comes twice"


def test_refill_that_runs_out_is_the_same_after_interrupts(
    run_loop: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds of 4 prompts are too few for 8. The same, interrupted before every stage that
    would be a process.
    """
    prompts = {"per_iteration": 4, "refill": {"informative": 8, "rounds": 1}}
    changes = {"run": {"iterations": 1}, "generate": {"n": 2}, "prompts": prompts}
    run, _ = run_loop(**changes)
    counts, _ = facts(run, "iter-000/informative")
    assert counts["rounds"] == 2 and 0 < counts["informative"] < 8
    assert counts["short"] == 8 - counts["informative"]
    assert counts["uninformative"] == 8 - counts["informative"] and counts["surplus"] == 0

    seen: set[str] = set()

    def interrupt(maker: Maker, batch: Sequence[Step]) -> Sequence[str]:
        if batch[0].name not in seen:
            seen.add(batch[0].name)
            raise KeyboardInterrupt
        return in_this_process(maker, batch)

    monkeypatch.setattr(one_process, "in_this_process", interrupt)
    for _ in range(20):
        with contextlib.suppress(KeyboardInterrupt):
            again, _ = run_loop(out="again", **changes)
            break
    assert "iter-000/round-1/samples" in seen and "iter-000/checkpoint" in seen
    for step in run.steps():
        assert again.content(f"step:{step.name}") == run.content(f"step:{step.name}"), step.name


def test_kl_budget_ends_the_loop_and_keeps_the_policy_before(run_loop: Run, tmp_path: Path) -> None:
    """The KL grows with the iterations; a budget between the first two's ends after the second.

    The run then results in the first one's policy; the same command does nothing, more iterations
    do nothing, a higher bound is refused until it is asked for.
    """
    whole, _ = run_loop(out="whole", train={"reference": "previous"})
    kls = [facts(whole, f"iter-{i:03d}/eval/summary")[1]["kl"]["mean"] for i in range(3)]
    assert kls[0] < kls[1]
    budget = (kls[0] + kls[1]) / 2
    published = {"folder": str(tmp_path / "published")}
    changes: dict[str, dict[str, object]] = {
        "train": {"reference": "previous"},
        "run": {"iterations": 3, "stop": {"kl": budget}},
        "publish": published,
    }
    run, outcome = run_loop(**changes)
    assert not run.folder("iter-002").exists()
    counts, metrics = facts(run, "iter-001/stop")
    assert counts["stopped"] == 1 and metrics["kept"] == "iter-000"
    assert "the KL to the first policy is" in str(metrics["why"])
    assert facts(run, "iter-000/stop")[0]["stopped"] == 0
    taken = (tmp_path / "published" / "model.safetensors").read_bytes()
    assert taken == (run.folder("iter-000/checkpoint") / "model.safetensors").read_bytes()
    summary = read_run(run.out)
    assert summary.finished and "stop   after iteration 1: the KL" in summary.ending
    assert "kept   iter-000/checkpoint" in summary.ending
    for i in range(2):  # the same content as without a stop, though other steps came between
        for step in ("samples", "checkpoint", "eval/samples"):
            name = f"iter-{i:03d}/{step}"
            assert run.content(f"step:{name}") == whole.content(f"step:{name}")

    assert run_loop(**changes)[1] == Outcome(0, outcome.done)
    more: dict[str, dict[str, object]] = {
        **changes,
        "run": {"iterations": 5, "stop": {"kl": budget}},
    }
    assert run_loop(**more)[1] == Outcome(0, outcome.done)
    higher: dict[str, dict[str, object]] = {
        **changes,
        "run": {"iterations": 3, "stop": {"kl": 1000.0}},
    }
    with pytest.raises(InputsChanged, match=r"section\.kl .*--redo iter-000/stop"):
        run_loop(**higher)
    on, _ = run_loop(redo=["iter-000/stop"], **higher)  # as the refusal says
    assert facts(on, "iter-002/stop")[0]["stopped"] == 0
    assert facts(on, "publish")[1]["step"] == "iter-002/checkpoint", "the new verdict's"
    assert on.content("step:iter-002/checkpoint") == whole.content("step:iter-002/checkpoint")


def test_policies_that_are_worse_than_the_first_are_not_published(
    run_loop: Run, tmp_path: Path
) -> None:
    """The loop learns to avoid what the evaluation asks for."""
    wrong_way = {"score": {"name": "regex", "pattern": "^[0-9]", "right": 0.0, "wrong": 1.0}}
    target = tmp_path / "published"
    evaluate = {"score": {"name": "regex", "pattern": "^[0-9]"}}
    run, _ = run_loop(
        evaluate=evaluate,
        publish={"folder": str(target), "model": "best"},
        run={"iterations": 2},
        **wrong_way,
    )
    summary = read_run(run.out)
    scores = {point.name: point.mean("score") for point in summary.points}
    assert scores["start"] > scores["iter-000"]
    assert run.verdict().kept == "start" and not target.exists()
    with pytest.raises(InputError, match="the loop kept the policy that it began with"):
        publish_run(run.out, Target(folder=target))


def test_a_sampler_that_held_stale_weights_is_counted_and_changes_nothing(
    run_loop: Run, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first load of the trained policy gives the first one's weights; the probe beside it
    tells (I4).
    """
    whole, _ = run_loop(out="whole", run={"iterations": 1})
    load, planted = ModelDecoder.load, list[str]()

    def load_stale(decoder: ModelDecoder, weights: WeightsRef) -> None:
        is_planted = weights.base != str(tiny_llama) and not planted
        planted.extend([weights.base] if is_planted else [])
        load(decoder, WeightsRef(str(tiny_llama)) if is_planted else weights)

    monkeypatch.setattr(ModelDecoder, "load", load_stale)
    run, _ = run_loop(run={"iterations": 1})
    assert planted == [str(run.folder("iter-000/checkpoint"))]
    assert facts(run, "start/eval/samples")[0]["engine_restarts"] == 0
    assert facts(run, "iter-000/eval/samples")[0]["engine_restarts"] == 1
    for name in ("iter-000/checkpoint", "iter-000/eval/samples"):
        assert run.content(f"step:{name}") == whole.content(f"step:{name}")
    assert "1 engine restarts" in write_report(read_run(run.out)).read_text()
