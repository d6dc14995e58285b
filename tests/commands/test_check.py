"""`align check`: what the plan says, from the recipe and from local files alone."""

from __future__ import annotations

import gzip
import json
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from align.commands import check
from align.commands.amounts import count_rows, pairs_a_prompt
from align.commands.estimates import count_parameters
from align.commands.plan import DEFAULT_EPOCHS, make_plan
from align.recipe.environment import config_class
from align.recipe.load import load_recipe
from align.recipe.sections import PairFrom, Policy, Prompts, Source
from align.stages.steps import plan
from tests.recipe import design_recipes


def plan_of(tmp_path: Path, text: str, *overrides: str) -> dict[str, tuple[str, str]]:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    found = make_plan(load_recipe(path, overrides))
    return {step.name: (step.reads, step.writes) for step in found.steps}


def test_plan_of_an_online_run(tmp_path: Path) -> None:
    """20,000 prompts x (6 + 2) samples; at most one pair a prompt: 20,000 in an iteration.

    The last iteration learns from its own and, as 0.3 of all, from 20,000 x 0.3 / 0.7 = 8,571 of
    the one before: ceil(28,571 / 128) = 224 steps.
    """
    steps = plan_of(tmp_path, design_recipes.ONLINE_DPO)
    assert list(steps) == [
        "eval-prompts",
        "iter-000..002/prompts",
        "start/eval/samples",
        "iter-000..002/samples",
        "start/eval/scores",
        "start/eval/summary",
        "iter-000..002/scores",
        "iter-000..002/pairs",
        "iter-000..002/checkpoint",
        "iter-000..002/eval/samples",
        "iter-000..002/eval/scores",
        "iter-000..002/eval/summary",
        "publish",
    ]
    assert steps["eval-prompts"] == ("org/prompts (test)", "? prompts")
    assert steps["start/eval/samples"] == ("vllm", "? samples")
    assert steps["start/eval/scores"] == ("reward_model org/gold-rm", "? scores")
    assert steps["start/eval/summary"] == ("samples, scores", "means")
    assert steps["iter-000..002/eval/summary"] == ("samples, scores", "means, gain, KL")
    assert steps["publish"] == ("iter-002/checkpoint", "org/my-model")
    assert steps["iter-000..002/samples"] == ("vllm, vllm", "160,000 samples (20,000 x 8)")
    assert steps["iter-000..002/scores"] == ("reward_model org/rm", "160,000 scores")
    assert steps["iter-000..002/pairs"] == ("max_min", "at most 20,000 pairs")
    reads, writes = steps["iter-000..002/checkpoint"]
    assert reads == "pairs, those of earlier iterations too"
    assert writes == "dpo: at most 224 optimizer steps of 128"
    one = plan_of(tmp_path, design_recipes.ONLINE_DPO, "train.history=current")
    assert one["iter-000..002/checkpoint"] == ("pairs", "dpo: at most 157 optimizer steps of 128")


def test_a_loop_that_divides_all_prompts_is_told_that_it_cannot_be_extended(tmp_path: Path) -> None:
    """Ten prompts, of which none is held out, in three iterations: three each."""
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(10)))
    path = tmp_path / "x.yaml"
    path.write_text(design_recipes.ONLINE_DPO)
    prompts = f"prompts={{path: {rows}}}"
    (note,) = make_plan(load_recipe(path, [prompts])).notes
    assert note.startswith("prompts.per_iteration: is not set, so each of 3 iterations takes")
    assert "an equal share of the prompts (3)" in note
    for overrides in (
        [],
        [prompts, "prompts.per_iteration=3"],
        [prompts, "run.iterations=1", "train.history=current"],
    ):
        assert make_plan(load_recipe(path, overrides)).notes == []


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (3, None),
        (4, "3 iterations of 4 prompts want 12, and there are 10; the last one takes what is left"),
        (5, "want 15, and there are 10; the last one has none: this cannot run"),
    ],
)
def test_a_loop_that_prompts_are_too_few_for_is_told(
    tmp_path: Path, size: int, says: str | None
) -> None:
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(10)))
    path = tmp_path / "x.yaml"
    path.write_text(design_recipes.ONLINE_DPO)
    prompts = f"prompts={{path: {rows}, per_iteration: {size}}}"
    notes = make_plan(load_recipe(path, [prompts])).notes
    assert len(notes) == (says is not None)
    assert says is None or says in notes[0]
    assert make_plan(load_recipe(path, [prompts, "prompts.resample=true"])).notes == []


@pytest.mark.parametrize("name", design_recipes.ALL)
def test_lines_are_the_steps_that_run_follows(tmp_path: Path, name: str) -> None:
    """Unfolded, with a moving reference and three iterations where the recipe may have them."""
    path = tmp_path / "x.yaml"
    path.write_text(design_recipes.ALL[name])
    recipe = load_recipe(path, ["train.reference={ema: 0.5}"] if name == "online_dpo" else [])
    unfolded: list[str] = []
    for line in make_plan(recipe).steps:
        first, dots, rest = line.name.partition("..")
        if not dots:
            unfolded.append(line.name)
            continue
        last, name_in_iteration = rest.split("/", 1)
        numbers = range(int(first.removeprefix("iter-")), int(last) + 1)
        unfolded += [f"iter-{number:03d}/{name_in_iteration}" for number in numbers]
    assert sorted(unfolded) == sorted(step.name for step in plan(recipe))
    assert ("iter-001/reference" in unfolded) == (name == "online_dpo")


def test_plan_of_a_reward_model_made_here(tmp_path: Path) -> None:
    """100 prompts x 2 samples make at most 100 pairs: ceil(100 / 32) x 3 epochs = 12."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n' * 100)
    steps = plan_of(tmp_path, design_recipes.REWARD_MADE, f"prompts.path={prompts}")
    assert steps == {
        "reward-data/prompts": (f"{prompts} (train)", "100 prompts"),
        "reward-data/samples": ("vllm", "200 samples (100 x 2)"),
        "reward-data/scores": ("length", "200 scores"),
        "reward-data/pairs": ("max_min", "at most 100 pairs"),
        "reward": ("reward-data/pairs", "at most 12 optimizer steps of 32"),
    }


def test_plan_of_local_data(tmp_path: Path) -> None:
    """8 of 64 kept, 7 pairs each in a tournament: 700 pairs, ceil(700 / 32) x 3 epochs = 66."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{i}"}) + "\n" for i in range(100)))
    steps = plan_of(tmp_path, design_recipes.RSO, f"prompts.path={prompts}")
    assert steps["iter-000/prompts"] == (f"{prompts} (train)", "100 prompts")
    assert steps["iter-000/samples"][1] == "6,400 samples (100 x 64)"
    assert steps["iter-000/selected"] == ("statistical_rejection", "at most 800 samples")
    assert steps["iter-000/pairs"] == (
        "tournament, judged by pairwise_model org/pm",
        "at most 700 pairs",
    )
    assert steps["iter-000/checkpoint"][1] == "dpo: at most 66 optimizer steps of 32"


def test_plan_says_what_is_unknown_and_unverified(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(design_recipes.HUMAN_DPO)
    found = make_plan(load_recipe(path))
    assert [(step.name, step.reads, step.writes) for step in found.steps] == [
        ("iter-000/data", "org/prefs (train)", "? rows"),
        ("iter-000/checkpoint", "data", "dpo: steps unknown, of 128"),
    ]
    assert found.unverified == ["policy.path: org/sft", "train.data.path: org/prefs"]


def test_iterations_share_the_prompts(tmp_path: Path) -> None:
    """A third of 90 each, disjoint or drawn anew from all; an iteration may take more than that."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n' * 90)
    sets = (f"prompts.path={prompts}", "prompts.per_iteration=")
    assert (
        plan_of(tmp_path, design_recipes.ONLINE_DPO, *sets)["iter-000..002/prompts"][1]
        == "30 prompts"
    )
    sets = (*sets, "prompts.resample=true")
    assert (
        plan_of(tmp_path, design_recipes.ONLINE_DPO, *sets)["iter-000..002/prompts"][1]
        == "30 prompts"
    )
    sets = (*sets, "prompts.per_iteration=60")
    assert (
        plan_of(tmp_path, design_recipes.ONLINE_DPO, *sets)["iter-000..002/prompts"][1]
        == "60 prompts"
    )


@pytest.mark.parametrize(
    ("rule", "n", "pairs"),
    [
        ("max_min", 8, 1),
        ("max_min", 1, 0),
        ("first_round", 7, 3),
        ("tournament", 8, 7),
        ("all_pairs", 4, 6),
        ("my.Rule", 4, None),
    ],
)
def test_most_pairs_of_a_rule(rule: str, n: int, pairs: int | None) -> None:
    assert pairs_a_prompt(PairFrom(name=rule), n) == pairs


def test_most_pairs_of_a_rule_with_a_limit() -> None:
    """Five of the six pairs of four samples, all three of three."""
    limited = PairFrom.model_validate({"name": "all_pairs", "max_pairs": 5})
    assert [pairs_a_prompt(limited, n) for n in (4, 3)] == [5, 3]


def test_rows_of_every_format_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}] * 3
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    (tmp_path / "c.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    names = ("a.jsonl", "b.jsonl.gz", "c.json", "d.parquet")
    assert [count_rows(Source(path=str(tmp_path / name)), 0) for name in names] == [3] * 4
    assert count_rows(Source(path=str(tmp_path)), 0) == 12
    assert count_rows(Source(path=str(tmp_path), limit=5), 0) == 5
    both = [Source(path=str(tmp_path / "a.jsonl")), Source(path="org/name")]
    assert count_rows(Source(mix=both[:1] * 2), 0) == 6
    assert count_rows(Source(mix=both), 0) is None


def test_parameters_of_a_config_are_exact() -> None:
    """Llama, 8 wide, 1 layer, 16 in the MLP, vocabulary 12 + 4 = 16, untied.

    Embedding and head 2 x 16 x 8 = 256; attention 4 x 64 = 256; MLP 3 x 128 = 384; three norms 24.
    """
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
    }
    policy = Policy(config=config, tokenizer={"kind": "characters", "alphabet": "0123456789+="})
    assert count_parameters(policy) == 256 + 256 + 384 + 24


def test_parameters_of_local_weights(shared: Path) -> None:
    """The checkpoint's own tensors; a Hub id stays unknown."""
    found = count_parameters(Policy(path=str(shared / "models" / "tinystories-llama-260k-hd32")))
    assert found is not None and 260_000 < found < 2_000_000
    assert count_parameters(Policy(path="org/name")) is None


def test_default_epochs_are_those_of_the_libraries() -> None:
    for name in ("trl.SFTConfig", "trl.RewardConfig", "trl.DPOConfig"):
        defaults = {field.name: field.default for field in fields(config_class(name))}
        assert defaults["num_train_epochs"] == DEFAULT_EPOCHS, name


def test_built_in_data_are_counted() -> None:
    found = count_rows(Source.model_validate({"name": "addition", "limit": 20}), 0)
    assert found == 20
    # One digit: 100 sums, 40 of them in `train`.
    prompts = Prompts.model_validate({"name": "addition", "digits": 1, "per_iteration": 8})
    assert count_rows(prompts, 0) == 40
    several = {"name": "addition", "digits": 1, "split": "train[:10%]+test[-3:]"}
    assert count_rows(Source.model_validate(several), 0) == 4 + 3
    drawn = {"name": "random_calculation", "count": 7, "split": "train[2:]"}
    assert count_rows(Source.model_validate(drawn), 0) == 5


def test_command_prints_the_plan(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(design_recipes.ONLINE_DPO)
    model = f"policy.path={shared / 'models' / 'tinystories-llama-260k-hd32'}"
    assert check.main(Namespace(recipes=[str(path)], overrides=[model])) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == f"{path} is valid: run my-run, seed 0"
    assert "160,000 samples (20,000 x 8)" in text
    assert "\nloop: 3 iterations; prompts disjoint, 20,000 each; " in text
    assert "parameters" in text and "memory to train: " in text
    assert "storage for models: " in text and "(3 kept)" in text
    # 3 iterations x 20,000 prompts x (6 x 1024 + 2 x 256) tokens x 16 bytes = 6.4 GB.
    assert "storage for samples: at most 6.4 GB" in text
    assert "  score.path: org/rm" in text and "policy.path" not in text


def test_made_comparisons_are_counted_where_their_preferences_lie(tmp_path: Path) -> None:
    """On the Hub nothing is fetched to count them; in a file they are as many as its rows."""
    far: dict[str, object] = {"name": "pairwise", "of": {"path": "org/preferences"}}
    assert count_rows(Source.model_validate(far), 0) is None
    assert count_rows(Source.model_validate({**far, "limit": 9}), 0) == 9
    path = tmp_path / "p.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    near: dict[str, object] = {"name": "pairwise", "of": {"path": str(path)}}
    assert count_rows(Source.model_validate(near), 0) == 2
