"""`align evaluate-reward`: accuracies, ties and intervals by hand, and the best-of-n curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from align import cli
from align.commands.evaluate_reward import best_of_n_curve
from align.data.shards import read_records, write_part
from align.records import Prompt, Sample, Score
from align.rewards.protocol import Group
from tests.commands.conftest import text_rows
from tests.rewards.builders import group_of, sample_of


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., dict[str, object]]:
    """`evaluate(recipe, *options)`: the numbers that the command wrote."""

    def run(recipe: str, *options: str) -> dict[str, object]:
        path, numbers = tmp_path / "reward.yaml", tmp_path / "numbers.json"
        path.write_text(recipe)
        assert cli.main(["evaluate-reward", str(path), *options, "--json", str(numbers)]) == 0
        return json.loads(numbers.read_text())

    return run


def test_accuracy_by_subset_with_ties_and_wilson_intervals(
    evaluate: Callable[..., dict[str, object]], write_rows: Callable[..., Path]
) -> None:
    """RewardBench's form, scored by length in characters. Six pairs of `a` are right; of `b` one is
    tied and one wrong: 6.5 / 8, strictly 6 / 8. Wilson for 0.5 of 2 at z = 1.959964:
    centre (0.25 + 0.960365) / 2.920729 = 0.414405.
    """
    rows = [*text_rows(6, subset="a")]
    rows += [
        {"prompt": "p", "chosen": "same", "rejected": "five", "subset": "b"},
        {"prompt": "q", "chosen": "no", "rejected": "longer", "subset": "b"},
    ]
    data = write_rows("bench.jsonl", rows)
    score = "score: {name: length, unit: characters}\n"
    found = evaluate(score, "--data", str(data), "--subset-column", "subset")
    pairs = found["pairs"]
    assert isinstance(pairs, dict) and list(pairs) == ["all", "a", "b"]
    assert (pairs["all"]["pairs"], pairs["all"]["ties"], pairs["all"]["failed"]) == (8, 1, 0)
    assert pairs["all"]["accuracy"] == pytest.approx(6.5 / 8)
    assert pairs["all"]["strict"] == pytest.approx(6 / 8)
    assert pairs["a"]["accuracy"] == 1.0 and pairs["a"]["high"] == pytest.approx(1.0)
    assert pairs["b"]["accuracy"] == pytest.approx(0.25)
    assert (pairs["b"]["low"] + pairs["b"]["high"]) / 2 == pytest.approx(0.414405, abs=1e-5)
    # Lengths in tokens are lengths in characters here, so "longer" is the same rule.
    assert pairs["all"]["longer"] == pytest.approx(6.5 / 8)


def test_pairs_of_one_prompt_are_resampled_together(
    evaluate: Callable[..., dict[str, object]], write_rows: Callable[..., Path]
) -> None:
    """Two prompts of three pairs, one all right and one all wrong: each resample of two prompts is
    0, 1/2 or 1, so the interval is all of [0, 1]; Wilson for 3 of 6 would end at 0.81.
    """
    rows = [
        {"prompt": name, "chosen": text * long, "rejected": text * short}
        for name, long, short in (("p", 4, 2), ("q", 2, 4))
        for text in "abc"
    ]
    data = write_rows("pairs.jsonl", rows)
    found = evaluate("score: {name: length, unit: characters}\n", "--data", str(data))
    pairs = found["pairs"]
    assert isinstance(pairs, dict)
    assert (pairs["all"]["low"], pairs["all"]["high"]) == (0.0, 1.0)


def test_failed_pairs_are_left_out_and_counted(
    evaluate: Callable[..., dict[str, object]],
    write_rows: Callable[..., Path],
    chat_scorer: Path,
) -> None:
    rows = [*text_rows(5), {"prompt": "x", "chosen": "y" * 600, "rejected": "z"}]
    data = write_rows("pairs.jsonl", rows)
    recipe = f"score: {{name: reward_model, path: {chat_scorer}}}\n"
    found = evaluate(recipe, "--data", str(data), "--chat")
    pairs = found["pairs"]
    assert isinstance(pairs, dict)
    assert (pairs["all"]["pairs"], pairs["all"]["failed"]) == (5, 1)


def test_best_of_n_curve_by_hand() -> None:
    """Vector of ALGORITHMS 5 (3.333333 at n = 2) beside a gold reward that falls as it rises:
    weights 0, 1/6, 2/6, 3/6 on 4, 3, 2, 1 give 10 / 6. The second prompt lacks a gold score.
    """
    groups = [group_of("p", None, *"abcd"), group_of("q", None, *"abcd")]
    proxy: list[float | None] = [1.0, 2.0, 3.0, 4.0] * 2
    gold: list[float | None] = [4.0, 3.0, 2.0, 1.0, None, 1.0, 1.0, 1.0]
    curve, kept = best_of_n_curve(groups, proxy, gold)
    assert kept == 1 and [one.n for one in curve] == [1, 2, 4]
    assert [one.proxy.estimate for one in curve] == pytest.approx([2.5, 3.333333, 4.0], abs=1e-6)
    assert [one.gold.estimate for one in curve] == pytest.approx([2.5, 10 / 6, 1.0])
    assert curve[2].kl == pytest.approx(0.636294, abs=1e-6)


def store_run(folder: Path, *, scored: bool) -> None:
    """Two prompts of three samples; the stored scores prefer the shortest."""
    groups = [group_of("p", None, "a", "bb", "ccc"), group_of("q", None, "dddd", "ee", "f")]
    write_part(folder / "prompts", 0, [group.prompt for group in groups], Prompt)
    samples = [sample for group in groups for sample in group.samples]
    write_part(folder / "samples", 0, samples, Sample)
    if scored:
        scores = [Score(sample.sample_id, -float(len(sample.text))) for sample in samples]
        write_part(folder / "scores", 0, scores, Score)


def test_curve_from_a_runs_samples_against_their_stored_scores(
    evaluate: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    """Length picks the longest: at n = 3 characters 3 and 4, whose stored scores are -3 and -4. At
    n = 1 the means are 2 and 7 / 3.
    """
    store_run(tmp_path / "run", scored=True)
    found = evaluate(
        "score: {name: length, unit: characters}\n", "--samples", str(tmp_path / "run")
    )
    curve = found["best_of_n"]
    assert isinstance(curve, list) and [one["n"] for one in curve] == [1, 2, 3]
    assert curve[0]["gold"][0] == pytest.approx(-(2 + 7 / 3) / 2)
    assert curve[2]["reward"][0] == pytest.approx(3.5)
    assert curve[2]["gold"][0] == pytest.approx(-3.5)
    assert "pairs" not in found


def test_curve_against_the_recipes_evaluation_reward_or_another_recipe(
    evaluate: Callable[..., dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store_run(tmp_path / "run", scored=False)
    samples = ("--samples", str(tmp_path / "run"))
    recipe = (
        "score: {name: length, unit: characters}\n"
        "evaluate: {prompts: {path: org/p}, score: {name: length, unit: characters, slope: -2.0}}\n"
    )
    found = evaluate(recipe, *samples)["best_of_n"]
    assert isinstance(found, list) and found[2]["gold"][0] == pytest.approx(-7.0)
    gold = tmp_path / "gold.yaml"
    gold.write_text("score: {name: length, unit: characters, slope: 3.0}\n")
    found = evaluate(recipe, *samples, "--gold", str(gold))["best_of_n"]
    assert isinstance(found, list) and found[2]["gold"][0] == pytest.approx(10.5)
    plain = tmp_path / "plain.yaml"
    plain.write_text("score: {name: length}\n")
    assert cli.main(["evaluate-reward", str(plain), *samples]) == 2
    assert "needs a second reward" in capsys.readouterr().err


def test_unknown_subset_column_names_those_there_are(
    tmp_path: Path, write_rows: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows("pairs.jsonl", text_rows(3, subset="a"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text("score: {name: length}\n")
    options = ["--data", str(data), "--subset-column", "set"]
    assert cli.main(["evaluate-reward", str(recipe), *options]) == 2
    assert "no column 'set' beside the pairs; the others are ['subset']" in capsys.readouterr().err


def test_groups_keep_the_order_of_their_samples() -> None:
    prompt = Prompt.of("p")
    group = Group(prompt, tuple(sample_of(prompt, i, "x" * i) for i in range(3)))
    curve, _ = best_of_n_curve([group], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    assert curve[-1].gold.estimate == 1.0


@pytest.mark.parametrize("gold", ["stored", "recipe"])
def test_a_gold_reward_that_is_the_reward_itself_is_refused(
    gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stored scores are those of this very reward, or it is named twice."""
    store_run(tmp_path / "run", scored=True)
    recipe = tmp_path / "reward.yaml"
    recipe.write_text("score: {name: length, unit: characters, slope: -1}\n")
    options = ["--samples", str(tmp_path / "run")]
    options += ["--gold", str(recipe)] if gold == "recipe" else []
    assert cli.main(["evaluate-reward", str(recipe), *options]) == 2
    said = capsys.readouterr().err
    assert "scores every sample as the reward itself does" in said
    assert "name another reward with --gold" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--limit", "0"], "--limit 0 reads no pair"),
        (["--limit", "-3"], "--limit -3 reads no pair"),
        (["--json", "nowhere/numbers.json"], "its folder is not there"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_once(
    options: list[str],
    says: str,
    tmp_path: Path,
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_rows("pairs.jsonl", text_rows())
    recipe = tmp_path / "r.yaml"
    recipe.write_text("score: {name: length, unit: characters}\n")
    assert cli.main(["evaluate-reward", str(recipe), "--data", str(data), *options]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_stored_scores_that_are_no_numbers_count_as_missing(
    evaluate: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    """NaN and infinity among the first prompt's scores: the curve stands on the second alone, whose
    lengths 4, 2 and 1 meet the stored -4, -2 and -1.
    """
    store_run(tmp_path / "run", scored=True)
    samples = read_records(tmp_path / "run" / "samples", Sample)
    values = [float("nan"), float("inf"), -3.0, -4.0, -2.0, -1.0]
    scores = [Score(one.sample_id, value) for one, value in zip(samples, values, strict=True)]
    write_part(tmp_path / "run" / "scores", 0, scores, Score)
    recipe = "score: {name: length, unit: characters}\n"
    curve = evaluate(recipe, "--samples", str(tmp_path / "run"))["best_of_n"]
    assert isinstance(curve, list)
    assert (curve[-1]["reward"][0], curve[-1]["gold"][0]) == (4.0, -4.0)


@pytest.mark.parametrize(
    ("place", "says"),
    [("nowhere", "is not there"), ("empty", "holds no samples of a run")],
)
def test_samples_that_are_not_there_are_named(
    place: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    recipe = tmp_path / "r.yaml"
    recipe.write_text("score: {name: length}\n")
    words = ["evaluate-reward", str(recipe), "--samples", str(tmp_path / place)]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / place} {says}; give a run's folder" in said


def test_why_samples_failed_is_said(
    tmp_path: Path, write_rows: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three pairs one has an answer."""
    rows = text_rows(3)
    rows[1]["answer"] = "maybe 3"
    data = write_rows("pairs.jsonl", rows)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("score: {name: exact_match}\n")
    assert cli.main(["evaluate-reward", str(recipe), "--data", str(data)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 of 6 samples failed, 2 of them with: exact_match: prompt" in said
    assert "name its column, e.g. columns: {answer: solution}" in said


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "of 1 rows 1 identical; a pair is a"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "of 1 rows 1 empty; a pair is a prompt"),
        ({"chosen": "b", "rejected": "c"}, "of 1 rows 1 no prompt; a pair is a prompt"),
        (
            {
                "prompt": [{"role": "assistant", "content": "x"}],
                "chosen": [{"role": "assistant", "content": "y"}],
                "rejected": [{"role": "assistant", "content": "z"}],
            },
            "pairs.jsonl:1: the prompt ends with the assistant's turn; begin both replies with",
        ),
    ],
)
def test_rows_that_are_no_pairs_are_said_by_count_or_place(
    row: dict[str, object],
    says: str,
    tmp_path: Path,
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_rows("pairs.jsonl", [row])
    recipe = tmp_path / "r.yaml"
    recipe.write_text("score: {name: length, unit: characters}\n")
    for words in (["evaluate-reward", str(recipe)], ["doctor", "--reward", str(recipe)]):
        assert cli.main([*words, "--data", str(data)]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1
