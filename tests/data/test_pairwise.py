"""Preference rows as comparisons: the text, the draw of the slots, what is left out, and that a
trained model is asked what it was taught.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from align.data.builtin.pairwise import Pairwise
from align.data.builtin.pairwise import Rows as Preferences
from align.data.chat import encode_pair, encode_prompt
from align.data.convert import to_demonstrations
from align.data.sources import read_rows
from align.errors import DataError, RecipeError
from align.models import load_tokenizer
from align.recipe.load import load_recipe
from align.recipe.sections import Source


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row_of(number: int) -> dict[str, object]:
    return {
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "chosen": [{"role": "assistant", "content": f"good {number}"}],
        "rejected": [{"role": "assistant", "content": f"bad {number}"}],
    }


def test_one_row_is_the_published_text_and_the_label_of_the_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "prefs.jsonl", [row_of(1)])
    texts = {
        "A": "[CONTEXT] \n\n<turn> user\n question 1\n [RESPONSE A] good 1 [RESPONSE B] bad 1 \n",
        "B": "[CONTEXT] \n\n<turn> user\n question 1\n [RESPONSE A] bad 1 [RESPONSE B] good 1 \n",
    }
    seen = set[str]()
    for seed in range(8):
        (row,) = Pairwise(Preferences(path)).rows("train", seed)
        label = row["completion"][0]["content"]  # pyright: ignore
        assert row["prompt"] == [{"role": "user", "content": texts[label]}]
        seen.add(label)
    assert seen == {"A", "B"}
    (row,) = Pairwise(Preferences(path), slot="SUMMARY").rows("train", 0)
    assert "[SUMMARY A]" in row["prompt"][0]["content"]  # pyright: ignore


def test_slots_are_a_fair_draw_of_the_row_and_the_seed(tmp_path: Path) -> None:
    """1,000 fair draws: 500 +- 3 x 15.8; the same seed gives the same rows."""
    path = write(tmp_path / "prefs.jsonl", [row_of(number) for number in range(1_000)])
    rows = list(Pairwise(Preferences(path)).rows("train", 0))
    first = sum(row["completion"][0]["content"] == "A" for row in rows)  # pyright: ignore
    assert abs(first - 500) <= 47
    assert list(Pairwise(Preferences(path)).rows("train", 0)) == rows
    assert list(Pairwise(Preferences(path)).rows("train", 1)) != rows


def test_rows_that_cannot_be_compared_are_left_out_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = {"role": "user", "content": "hi"}
    unfit: list[dict[str, object]] = [
        {**row_of(1), "prompt": [user, user]},
        {**row_of(2), "tie": True},
        {**row_of(3), "chosen": [{"role": "assistant", "content": " "}]},
        {**row_of(4), "chosen": row_of(4)["rejected"]},
    ]
    path = write(tmp_path / "prefs.jsonl", [*unfit, row_of(5)])
    (row,) = Pairwise(Preferences(path)).rows("train", 0)
    assert "question 5" in row["prompt"][0]["content"]  # pyright: ignore
    assert "prefs.jsonl: 1 rows make comparisons (5 read, " in caplog.text
    assert "1 not_alternating, 1 tie" in caplog.text
    path = write(tmp_path / "none.jsonl", unfit)
    with pytest.raises(DataError, match=r"compare: 4 read, .*1 not_alternating, 1 tie"):
        list(Pairwise(Preferences(path)).rows("train", 0))


def test_rows_that_are_left_out_are_counted_for_the_manifest(tmp_path: Path) -> None:
    """Through a mixture too; what nobody left out is not named."""
    rows: list[dict[str, object]] = [
        {**row_of(1), "tie": True},
        {**row_of(2), "tie": True},
        {**row_of(3), "chosen": row_of(3)["rejected"]},
        row_of(4),
        row_of(5),
    ]
    path = write(tmp_path / "prefs.jsonl", rows)
    source = Source.model_validate({"name": "pairwise", "of": {"path": path}})
    left_out = Counter[str]()
    assert len(read_rows(source, seed=0, left_out=left_out)) == 2
    assert left_out == {"left_out_as_tie": 2, "left_out_as_identical": 1}
    left_out.clear()
    mixed = Source.model_validate({"mix": [source.model_dump(exclude_none=True)]})
    assert len(read_rows(mixed, seed=0, left_out=left_out)) == 2
    assert left_out == {"left_out_as_tie": 2, "left_out_as_identical": 1}


def test_a_recipe_reads_it_as_demonstrations(tmp_path: Path) -> None:
    path = write(tmp_path / "prefs.jsonl", [row_of(number) for number in range(4)])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "policy: {path: org/base}\n"
        f"sft: {{data: {{name: pairwise, of: {{path: {path}}}, limit: 3}}}}\n"
    )
    sft = load_recipe(recipe).sft
    assert sft is not None
    demonstrations = to_demonstrations(read_rows(sft.data, seed=0)).rows
    assert len(demonstrations) == 3
    assert {str(one.completion[0]["content"]) for one in demonstrations} <= {"A", "B"}
    recipe.write_text("policy: {path: org/base}\nsft: {data: {name: pairwise, of: {pth: x}}}\n")
    with pytest.raises(RecipeError, match=r'sft\.data\.of\.pth .*did you mean "path"'):
        load_recipe(recipe)


@pytest.mark.parametrize("template", ["chatml", "none"])
def test_label_is_the_token_that_training_put_there(template: str, shared: Path) -> None:
    """This tokenizer spells a lone "A" with a space mark in front; after the question it does
    not."""
    tokenizer = load_tokenizer(shared / "models" / "tinystories-llama-260k")
    assert len(tokenizer.encode("A", add_special_tokens=False)) == 2
    text = "[CONTEXT] \n\n<turn> user\n a\n [RESPONSE A] b [RESPONSE B] c \n"
    turn = {"role": "user", "content": text}
    before, after = encode_pair(tokenizer, [turn], "A", template, finished=False)
    assert before == encode_prompt(tokenizer, [turn], template) and len(after) == 1
    assert tokenizer.convert_ids_to_tokens(after) == ["A"]


def test_real_pairs_all_fit(shared: Path) -> None:
    rows = list(Pairwise(Preferences(str(shared / "data" / "truthfulqa"))).rows("dev", 0))
    assert len(rows) == 181
