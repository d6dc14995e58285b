"""Human data as samples, pairs and scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.data.convert import to_demonstrations, to_labelled, to_preferences
from align.data.human import import_demonstrations, import_labelled, import_preferences
from align.data.rows import Row
from align.data.sources import read_rows
from align.errors import DataError
from align.models import load_tokenizer
from align.recipe.sections import Source
from align.records import content_id


def _rows(*values: dict[str, object]) -> list[Row]:
    return [Row(value, "set", f"x:{i}") for i, value in enumerate(values)]


def test_pairs_share_samples_and_name_them(tiny_llama: Path) -> None:
    rows = to_preferences(
        _rows(
            {"prompt": "1+1=", "chosen": "2", "rejected": "3", "margin": 1},
            {"prompt": "1+1=", "chosen": "2", "rejected": "44"},
            {"prompt": "1+1=", "chosen": "?", "rejected": "!"},
        )
    ).rows
    records = import_preferences(rows, load_tokenizer(tiny_llama), None)
    assert [sample.text for sample in records.samples] == ["2", "3", "44"]
    two, three, four = records.samples
    assert (two.prompt_ids, two.completion_ids, two.loss_mask) == ((5, 14, 5, 20), (6, 2), (1, 1))
    assert (four.completion_ids, four.index, four.finish) == ((8, 8, 2), 2, "stop")
    assert (two.policy, two.logps) == ("", None)
    assert two.sample_id == content_id(two.prompt_id, 0, "", [6, 2], 0)
    pairs = [(pair.chosen, pair.rejected, pair.margin) for pair in records.pairs]
    assert pairs == [
        (two.sample_id, three.sample_id, 1.0),
        (two.sample_id, four.sample_id, 0.0),
    ]
    # "?" and "!" are both <unk>: nothing to prefer.
    assert records.counts == {
        "prompts": 1,
        "samples": 3,
        "pairs": 2,
        "too_long": 0,
        "identical": 1,
        "seam_merges": 0,
    }


def test_rows_that_say_so_are_ties(tiny_llama: Path) -> None:
    """By `tie`, a label of one half, a margin of nought; a row without any of them is none."""
    says = [{"tie": True}, {"label": 0.5}, {"margin": 0}, {"tie": False}, {"margin": 0.5}, {}]
    columns = [
        {"prompt": f"{i}=", "chosen": "2", "rejected": "3", **more} for i, more in enumerate(says)
    ]
    rows = to_preferences(_rows(*columns)).rows
    assert [row.is_tie for row in rows] == [True, True, True, False, False, False]
    records = import_preferences(rows, load_tokenizer(tiny_llama), None)
    assert records.ties == frozenset(records.pairs[:3]) and records.counts["ties"] == 3
    with pytest.raises(DataError, match="tie is 'yes'; expected true or false"):
        to_preferences(_rows({"prompt": "1=", "chosen": "2", "rejected": "3", "tie": "yes"}))


def test_too_long_pairs_are_counted(tiny_llama: Path) -> None:
    rows = to_preferences(_rows({"prompt": "1+1=", "chosen": "2", "rejected": "33"})).rows
    tokenizer = load_tokenizer(tiny_llama)
    assert import_preferences(rows, tokenizer, None, max_length=7).counts["too_long"] == 0
    records = import_preferences(rows, tokenizer, None, max_length=6)
    assert (records.counts["too_long"], records.samples, records.pairs) == (1, [], [])


def test_labelled_become_scores(tiny_llama: Path) -> None:
    rows = to_labelled(
        _rows(
            {"prompt": "1+1=", "completion": "2", "label": True},
            {"prompt": "1+1=", "completion": "3", "label": False},
        )
    ).rows
    records = import_labelled(rows, load_tokenizer(tiny_llama), None)
    assert [score.value for score in records.scores] == [1.0, -1.0]
    assert [s.sample_id for s in records.scores] == [s.sample_id for s in records.samples]


def test_multi_turn_demonstrations_mask_the_user(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "models" / "tinystories-llama-260k")
    turns = [
        {"role": role, "content": text}
        for role, text in [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    ]
    records = import_demonstrations(
        to_demonstrations(_rows({"messages": turns})).rows, tokenizer, "plain"
    )
    sample = records.samples[0]
    pairs = zip(sample.completion_ids, sample.loss_mask, strict=True)
    trained = [token for token, mask in pairs if mask]
    assert tokenizer.decode(trained) == "b</s> d</s>"
    assert sample.text == "b\n\nd"


def test_real_preferences_import(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "models" / "tinystories-llama-260k")
    source = Source(path=str(shared / "data" / "oasst"), split="dev")
    rows = to_preferences(read_rows(source, seed=0)).rows
    records = import_preferences(rows, tokenizer, "plain", max_length=512)
    assert (records.counts["prompts"], records.counts["samples"]) == (3, 8)
    assert (records.counts["pairs"], records.counts["too_long"]) == (8, 41)
    known = {sample.sample_id for sample in records.samples}
    assert {name for pair in records.pairs for name in (pair.chosen, pair.rejected)} == known
    assert all(s.completion_ids[-1] == 2 and s.prompt_ids[0] == 1 for s in records.samples)
