"""Kinds of rows, implicit prompts, hygiene; counts of the real files as values."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.data.convert import (
    kind_of,
    to_demonstrations,
    to_labelled,
    to_preferences,
    to_prompts,
)
from align.data.rows import Row
from align.data.sources import read_rows
from align.data.turns import extract_prompt
from align.errors import DataError
from align.recipe.sections import Source
from align.records import Turn

USER: Turn = {"role": "user", "content": "Hi"}
REPLY: Turn = {"role": "assistant", "content": "Hello"}
OTHER: Turn = {"role": "assistant", "content": "Go away"}
TEXT: Turn = {"role": "text", "content": "1+1="}


def _rows(*values: dict[str, object]) -> list[Row]:
    return [Row(value, "set", f"x.jsonl:{i}") for i, value in enumerate(values, start=1)]


def _read(shared: Path, name: str, split: str = "dev", **options: object) -> list[Row]:
    source = {"path": str(shared / "data" / name), "split": split, **options}
    return read_rows(Source.model_validate(source), seed=0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"prompt": "a"}, "prompt"),
        ({"prompt": "a", "completion": "b"}, "demonstration"),
        ({"prompt": "a", "completion": "b", "label": False}, "labelled"),
        ({"messages": [USER, REPLY]}, "dialogue"),
        ({"messages": [USER], "prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"prompt": "a", "completion": None}, "prompt"),
    ],
)
def test_kinds(values: dict[str, object], kind: str) -> None:
    assert kind_of(Row(values)) == kind


def test_demonstrations_from_each_kind() -> None:
    rows = _rows(
        {"prompt": "1+1=", "completion": "2", "answer": "2", "level": 1},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": "Hi", "completion": [OTHER]},
        {"messages": [USER, REPLY, USER, OTHER, USER]},
        {"prompt": "x", "chosen": "y", "rejected": "z"},
        {"prompt": "x", "completion": "wanted", "label": True},
        {"prompt": "x", "completion": "unwanted", "label": False},
    )
    cleaned = to_demonstrations(rows)
    assert [(item.prompt.messages, item.completion) for item in cleaned.rows] == [
        ((TEXT,), ({"role": "assistant", "content": "2"},)),
        ((USER,), (REPLY,)),
        ((USER,), (OTHER,)),
        ((USER,), (REPLY, USER, OTHER)),
        (({"role": "text", "content": "x"},), ({"role": "assistant", "content": "y"},)),
        (({"role": "text", "content": "x"},), ({"role": "assistant", "content": "wanted"},)),
    ]
    assert cleaned.rows[0].prompt.answer == "2"
    assert cleaned.rows[0].prompt.meta == {"level": 1}
    assert cleaned.rows[0].prompt.source == "set"
    expected = {"read": 7, "kept": 6, "empty": 0, "duplicate": 0, "unwanted": 1}
    assert cleaned.counts == expected


def test_hygiene_of_demonstrations_is_counted() -> None:
    cleaned = to_demonstrations(
        _rows(
            {"prompt": "a", "completion": "b"},
            {"prompt": "a", "completion": "b"},
            {"prompt": " ", "completion": "b"},
            {"prompt": "a", "completion": "\n"},
            {"prompt": "a", "completion": []},
            {"messages": [USER]},
            {"prompt": "c", "completion": "cut of", "finish": "length"},
            {"prompt": "d", "completion": "cut of", "truncated": True},
        )
    )
    assert cleaned.counts == {"read": 8, "kept": 1, "empty": 4, "duplicate": 1, "truncated": 2}


def test_prompts_from_each_kind() -> None:
    cleaned = to_prompts(
        _rows(
            {"prompt": "1+1=", "answer": {"value": 2}},
            {"messages": [USER, REPLY]},
            {"messages": [USER, REPLY, USER]},
            {"chosen": [USER, REPLY], "rejected": [USER, OTHER]},
            {"prompt": [{"role": "system", "content": "s"}, USER], "completion": [REPLY]},
            {"prompt": "  "},
        )
    )
    assert [prompt.messages for prompt in cleaned.rows] == [
        (TEXT,),
        (USER,),
        (USER, REPLY, USER),
        ({"role": "system", "content": "s"}, USER),
    ]
    assert cleaned.rows[0].answer == {"value": 2}
    assert cleaned.counts == {"read": 6, "kept": 4, "empty": 1, "duplicate": 1}


def test_preferences_with_implicit_prompts() -> None:
    hh = "\n\nHuman: Hi\n\nAssistant: I am well.\n\nHuman: Good\n\nAssistant:"
    cleaned = to_preferences(
        _rows(
            {"chosen": [USER, REPLY], "rejected": [USER, OTHER], "margin": 2},
            {"prompt": "Hi", "chosen": [USER, REPLY], "rejected": [USER, OTHER], "k": 1},
            {"chosen": f"{hh} I am glad", "rejected": f"{hh} I am sad"},
            {"prompt": "Hi", "chosen": [REPLY], "rejected": [OTHER], "margin": 1.5},
        )
    )
    assert [item.prompt.messages for item in cleaned.rows] == [
        (USER,),
        ({"role": "text", "content": hh},),
    ]
    assert cleaned.rows[0].margin == 2.0
    assert cleaned.rows[1].chosen == ({"role": "assistant", "content": " I am glad"},)
    assert cleaned.counts["duplicate"] == 2


def test_hygiene_of_preferences_is_counted() -> None:
    cleaned = to_preferences(
        _rows(
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            {"chosen": [USER, REPLY], "rejected": [USER, REPLY]},
            {"prompt": "a", "chosen": "b", "rejected": ""},
            {"chosen": [USER, REPLY], "rejected": [OTHER]},
            {"chosen": "left", "rejected": "right"},
            {"prompt": "a", "chosen": "b", "rejected": "c", "truncated": True},
        )
    )
    assert cleaned.rows == ()
    expected = {"read": 6, "kept": 0, "empty": 1, "duplicate": 0}
    assert cleaned.counts == expected | {"identical": 2, "no_prompt": 2, "truncated": 1}


def test_extract_prompt_of_text_and_turns() -> None:
    assert extract_prompt("The sky is blue", "The sky is green") == (
        "The sky is",
        " blue",
        " green",
    )
    assert extract_prompt("The sky is", "The sky is green") == ("The sky", " is", " is green")
    # Replies that begin alike share the header only, and a common earlier reply stays in the
    # prompt.
    same = "\n\nHuman: a\n\nAssistant: I do"
    assert extract_prompt(same + " x", same + " y") == (same[:-5], " I do x", " I do y")
    turns = (USER, REPLY, USER)
    assert extract_prompt((*turns, REPLY), (*turns, OTHER)) == (turns, (REPLY,), (OTHER,))


@pytest.mark.parametrize(
    ("label", "wanted"), [(True, True), (False, False), (1, True), (0, False), (-1, False)]
)
def test_labels(label: object, wanted: bool) -> None:
    rows = to_labelled(_rows({"prompt": "a", "completion": "b", "label": label})).rows
    assert [row.is_wanted for row in rows] == [wanted]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"question": "a"}, r"^x.jsonl:1: the columns \['question'\] make no .*map them with"),
        ({"prompt": 3}, "'prompt' is int; expected text or a list of turns"),
        ({"prompt": ["a"]}, "lists str; expected turns"),
        ({"prompt": [{"role": "human", "content": "a"}]}, "the role 'human'; expected system"),
        ({"prompt": [{"role": "user", "content": 3}]}, "a turn of user whose content is int"),
        ({"prompt": "a", "completion": [USER]}, r"its roles are \['user'\]"),
    ],
)
def test_malformed_rows_are_located(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_prompts(_rows(values))


def test_wrong_kinds_are_located() -> None:
    row = {"prompt": "a", "completion": "b", "label": "good"}
    with pytest.raises(DataError, match=r"x.jsonl:1: the label is 'good'"):
        to_labelled(_rows(row))
    with pytest.raises(DataError, match="expected prompt, completion and label"):
        to_labelled(_rows({"prompt": "a"}))
    with pytest.raises(DataError, match="expected chosen and rejected"):
        to_preferences(_rows(row))
    with pytest.raises(DataError, match="demonstrates nothing"):
        to_demonstrations(_rows({"prompt": "a"}))
    for margin, said in (
        ("x", "'x'"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (True, "True"),
    ):
        with pytest.raises(DataError, match=f"x.jsonl:1: the margin is {said}; expected a finite"):
            to_preferences(_rows({"prompt": "a", "chosen": "b", "rejected": "c", "margin": margin}))


@pytest.mark.parametrize(
    ("name", "pairs", "prompts", "duplicates"),
    [
        ("hh_harmless", 1599, 1598, 0),
        ("oasst", 498, 140, 0),
        ("pandalm", 321, 67, 28),
        ("truthfulqa", 1977, 558, 0),
        ("mixed_dpo", 210, 210, 4),
        ("gsm8k_pref", 1147, 350, 2),
    ],
)
def test_real_preferences(
    shared: Path, name: str, pairs: int, prompts: int, duplicates: int
) -> None:
    cleaned = to_preferences(_read(shared, name, "train"))
    assert (cleaned.counts["kept"], cleaned.counts["duplicate"]) == (pairs, duplicates)
    assert cleaned.counts["read"] == pairs + duplicates
    assert len({item.prompt.prompt_id for item in cleaned.rows}) == prompts
    assert all(item.prompt.messages[-1]["role"] == "user" for item in cleaned.rows)


def test_real_implicit_prompts_equal_the_given_ones(shared: Path) -> None:
    """HH rows with the prompt put in front of both sides give back the same prompts."""
    rows = _read(shared, "hh_harmless")
    joined = [
        Row(
            {
                "chosen": [*row.values["prompt"], *row.values["chosen"]],  # pyright: ignore
                "rejected": [*row.values["prompt"], *row.values["rejected"]],  # pyright: ignore
            }
        )
        for row in rows
    ]
    given, found = to_preferences(rows), to_preferences(joined)
    assert [x.prompt.messages for x in found.rows] == [x.prompt.messages for x in given.rows]
    assert [x.rejected for x in found.rows] == [x.rejected for x in given.rows]
    assert max(len(x.prompt.messages) for x in given.rows) == 13


def test_real_labels_questions_and_prompts(shared: Path) -> None:
    kto = to_labelled(_read(shared, "mixed_kto", "train"))
    assert (kto.counts["kept"], sum(row.is_wanted for row in kto.rows)) == (198, 102)
    truthful = to_labelled(_read(shared, "truthfulqa_kto", "train"))
    assert (truthful.counts["kept"], sum(row.is_wanted for row in truthful.rows)) == (4000, 1665)
    columns = {"prompt": "question", "completion": "answer", "answer": "final"}
    gsm = to_demonstrations(_read(shared, "gsm8k", columns=columns, shuffle=False))
    assert gsm.counts == {"read": 434, "kept": 434, "empty": 0, "duplicate": 0}
    assert gsm.rows[0].prompt.answer == "240"
    assert str(gsm.rows[0].completion[0]["content"]).endswith("#### 240")
    stories = to_prompts(_read(shared, "tinystories_prompts", "train"))
    assert (stories.counts["kept"], stories.rows[0].messages[0]["role"]) == (1766, "text")
    rules = to_prompts(_read(shared, "ifeval", shuffle=False))
    assert rules.rows[0].meta["instruction_id_list"] == [  # pyright: ignore
        "combination:repeat_prompt",
        "punctuation:no_comma",
    ]
