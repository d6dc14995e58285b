"""Names and options of plug-ins and data sets that are wrong: one error each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from align.errors import RecipeError
from align.recipe.load import load_recipe
from align.recipe.sample_rules import JUDGES
from align.registry import TABLES, build, plugin_class
from tests.recipe.broken import PLUGINS, POLICY, PREFS, SAMPLES, SCORED, TOPR, check_error, one

PLUGIN = {
    "unknown option": one(
        POLICY + "train:\n  data: {path: b}\n  objective:\n    name: dpo\n    betta: 0.1\n"
        "  global_batch_size: 8\n",
        6,
        "train.objective.betta",
        "is not an option of dpo",
        'did you mean "beta"?',
    ),
    "unknown option beside a section's own": one(
        SAMPLES + "score: {name: length, wieght: 2}\n",
        4,
        "score.wieght",
        "not an option of length",
        '"weight"',
    ),
    "unknown option in a list": one(
        POLICY
        + "prompts: {path: b}\ngenerate:\n  - {name: vllm}\n  - {name: vllm, max_tokens: 4}\n",
        5,
        "generate.1.max_tokens",
        "is not an option of vllm",
        '"max_new_tokens"',
    ),
    "unknown name": one(
        SAMPLES + "score: {name: lenght}\n",
        4,
        "score.name",
        '"lenght" is not a known reward',
        '"length"',
    ),
    "unknown name, nothing near": one(
        SCORED + "select: {name: qqq}\n",
        5,
        "select.name",
        "not a known selection",
        "best_of_n, statistical_rejection",
    ),
    "unknown judge": one(
        SCORED + "pair:\n  name: max_min\n  judge: {name: pairwise_modl}\n",
        7,
        "pair.judge.name",
        "not a known reward",
        '"pairwise_model"',
    ),
    "module that is not there": one(
        SCORED + "select: {name: nowhere.Rule}\n",
        5,
        "select.name",
        "cannot be imported: No module named 'nowhere'",
        "check the dotted name",
    ),
    "class that is not there": one(
        SCORED + f"select: {{name: {PLUGINS}.Treshold}}\n",
        5,
        "select.name",
        "has no class Treshold",
        '"Threshold"',
    ),
    "class without fields": one(
        SCORED + f"select: {{name: {PLUGINS}.NotADataclass}}\n",
        5,
        "select.name",
        "is not a dataclass",
        "@dataclass(frozen=True)",
    ),
    "objective without needs": one(
        POLICY + PREFS.replace("dpo", f"{PLUGINS}.NoNeeds") + "}",
        2,
        "train.objective.name",
        "has no `needs`",
        "add needs",
    ),
    "missing option": one(
        SCORED + f"select: {{name: {PLUGINS}.Threshold}}\n",
        5,
        "select.above",
        "is required",
        'add "above"',
    ),
    "option of a wrong type": one(
        SCORED + f"select:\n  name: {PLUGINS}.Threshold\n  above: high\n",
        7,
        "select.above",
        'must be a number, not the text "high"',
        "change",
    ),
    "option of a wrong choice": one(
        SCORED + f"select: {{name: {PLUGINS}.Threshold, above: 1, mode: sof}}\n",
        5,
        "select.mode",
        'must be "hard" or "soft"',
        '"soft"',
    ),
    "option that its class refuses": one(
        SCORED + f"select: {{name: {PLUGINS}.Threshold, above: 1, keep: 0}}\n",
        5,
        "select",
        "keep must be at least 1, not 0",
        "",
    ),
    "pattern that its class refuses": one(
        SAMPLES + "score:\n  name: regex\n  pattern: '('\n",
        6,
        "score.pattern",
        "is not a regular expression",
        "Python's re module",
    ),
    "server named by halves": one(
        SAMPLES + "score: {name: served_reward_model}\n",
        4,
        "score",
        "give either url, a running server, or path",
        "",
    ),
    "weight that is no number": one(
        SAMPLES + "score: {name: length, weight: .nan}\n",
        4,
        "score.weight",
        "is .nan, which is no number",
        "give a number",
    ),
    "weight without end": one(
        SAMPLES + "score: {name: length, weight: .inf}\n",
        4,
        "score.weight",
        "finite",
        "",
    ),
    "judge that compares nothing": one(
        SCORED + "pair:\n  name: max_min\n  judge: {name: length}\n",
        7,
        "pair.judge.name",
        "scores samples one by one and compares none",
        "pairwise_judge or pairwise_model",
    ),
    "list that is too short": one(
        SAMPLES + "score:\n  name: ensemble\n  members: [{path: org/a}]\n",
        6,
        "score.members",
        "holds 1 items, and at least 2 are needed",
        "add to the list",
    ),
    "address of no server": one(
        SAMPLES + "score: {name: http, url: 'ftp://host'}\n",
        4,
        "score",
        "must begin with http:// or https://",
        "",
    ),
    "weight without end inside a reward": one(
        SAMPLES + "score: {name: total, of: [{name: length, weight: .inf}]}\n",
        4,
        "score.of.0.weight",
        "must be finite, not inf",
        "give a number",
    ),
    "unknown data set": one(
        POLICY + "sft: {data: {name: adition}}\n",
        2,
        "sft.data.name",
        "not a known dataset",
        '"addition"',
    ),
    "unknown key of a source": one(
        POLICY + "sft:\n  data: {path: b, spilt: test}\n",
        3,
        "sft.data.spilt",
        "is not a key of sft.data",
        '"split"',
    ),
    "unknown key in a mix": one(
        POLICY + "sft:\n  data:\n    mix:\n      - {path: b}\n      - {path: c, wieght: 2}\n",
        6,
        "sft.data.mix.1.wieght",
        "is not a key of sft.data.mix.1",
        '"weight"',
    ),
    "unknown stop score": one(
        POLICY + "sft: {data: {path: b}, stop: {score: exact, at: 0.5}}\n",
        2,
        "sft.stop.score",
        '"exact" is not a known reward',
        '"exact_match"',
    ),
}

PLUGIN |= {
    "a selection that keeps nothing": one(
        SCORED + "select: {name: anna_karenina, max_pos_per_prompt: 0, max_neg_per_prompt: 0}\n",
        5,
        "select",
        "are both 0: nothing stays",
        "",
    ),
    "rejection that rejects nothing": one(
        SCORED + "select: {name: statistical_rejection, keep: 4}\n",
        5,
        "select.keep",
        "is 4 of 4 samples a prompt, so none is rejected",
        "raise generate.n",
    ),
    "one kept sample for a pair": one(
        SCORED + "select: {name: best_of_n, keep: 1}\npair: {name: max_min}\n",
        5,
        "select.keep",
        "one kept sample of a prompt makes no pair",
        "2 or more",
    ),
    "a threshold above both verdicts": one(
        SAMPLES + "score: {name: exact_match}\nselect: {name: anna_karenina, threshold: 1}\n",
        5,
        "select.threshold",
        "does not part the verdicts 1 (right) and 0 (wrong)",
        "set it to 0.5",
    ),
    "a threshold that is right": one(
        SAMPLES + "score: {name: math_verify, right: 0}\nselect: {name: anna_karenina}\n",
        5,
        "select.threshold",
        "is 0, which does not part the verdicts 0 (right) and -1 (wrong)",
        "set it to -0.5",
    ),
    "two samplers that are one": one(
        SCORED + "pair: {name: max_max, between: samplers}\n",
        5,
        "pair.between",
        "here is one sampler",
        "name two in generate",
    ),
    "an infinite reward": one(
        SAMPLES + "score: {name: exact_match, wrong: -.inf}\n",
        4,
        "score.wrong",
        "must be finite, not -inf",
        "give a number",
    ),
    "an infinite baseline": one(
        TOPR + ", advantage: {baseline: .inf}}", 5, "train.advantage.baseline", "be finite", ""
    ),
    "a margin that no pair has": one(
        SCORED + "pair: {name: max_min, min_margin: .inf}\n",
        5,
        "pair.min_margin",
        "must be finite",
        "",
    ),
}


def test_rejection_at_an_infinite_temperature_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SCORED + "select: {name: statistical_rejection, keep: 2, beta: .inf}\n")
    select = load_recipe(path).select
    assert select is not None and select.options["beta"] == math.inf


@pytest.mark.parametrize("name", PLUGIN)
def test_error_has_file_line_key_and_remedy(name: str, tmp_path: Path) -> None:
    check_error(PLUGIN[name], tmp_path)


def test_message_of_the_style_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(PLUGIN["unknown option"].text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("x.yaml")
    expected = 'x.yaml:6: train.objective.betta is not an option of dpo; did you mean "beta"?'
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ("{name: served_reward_model}", "x.yaml:4: score: give either url"),
        ("{name: total, of: [{name: served_reward_model}]}", "score: inside `of`: give either url"),
        ("{name: total, of: [{name: length, weight: 0}]}", "score: no source has a weight other"),
        ("{name: total, of: [{name: lenght}]}", 'inside `of`: name "lenght" is not a known reward'),
        ("{name: total, of: [{name: length, slop: 1}]}", "inside `of`: slop is not an option"),
    ],
)
def test_what_a_plug_in_says_stands_behind_a_colon(
    score: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(f"{SAMPLES}score: {score}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("x.yaml")
    assert says in str(caught.value)


def test_a_plug_in_that_is_built_from_python_says_where_it_is_wrong() -> None:
    with pytest.raises(RecipeError) as caught:
        build("reward", {"name": "served_reward_model"})
    assert str(caught.value).startswith("reward: give either url")
    with pytest.raises(RecipeError) as caught:
        build("reward", {"name": "regex", "pattern": "("})
    assert str(caught.value).startswith("reward.pattern is not a regular expression")


def test_judges_are_the_rewards_that_compare() -> None:
    """`open` says what it returns; a judge has `preferences`."""
    found = [
        name
        for name in TABLES["reward"]
        if "PairwiseScorer" in str(plugin_class("reward", name).open.__annotations__["return"])  # pyright: ignore
    ]
    assert sorted(found) == sorted(JUDGES)
