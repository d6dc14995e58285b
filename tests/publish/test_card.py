"""The card: valid metadata, the numbers with their intervals, lineage, and nothing secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from align.publish.run import Target, publish_run
from align.records import Json
from align.report.redact import redact, redact_text


@pytest.fixture
def card(run_folder: Path, tmp_path: Path) -> str:
    publish_run(run_folder, Target(folder=tmp_path / "published", tags=("arithmetic",)))
    return (tmp_path / "published" / "README.md").read_text()


def test_front_matter_is_what_the_hub_reads(card: str) -> None:
    data = ModelCard(card).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.tags == ["align", "alignment", "sft", "dpo", "rlhf", "arithmetic"]
    assert data.datasets == ["org/demonstrations"]
    assert data.base_model is None
    assert data.eval_results is not None
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"score": 0.5, "kl": 1.25}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_evaluation_table_has_intervals_of_every_policy(card: str) -> None:
    assert "| policy | score | gain | kl |" in card
    assert "intervals over prompts. The gain is in score, over the first policy.\n" in card
    assert "| start | 0.250 [0.200, 0.300] | - | 0.000 |" in card
    assert "| iter-000 | 0.500 [0.450, 0.550] | 0.250 [0.200, 0.310] | 1.250 |" in card


def test_data_and_lineage_name_sources_steps_and_fingerprints(card: str) -> None:
    assert "| SFT | org/demonstrations | train |" in card
    assert "| evaluation | addition (built in) | test |" in card
    assert "step `iter-000/checkpoint`, fingerprint `" in card
    assert "torch 2.13.0" in card and "1,234 pairs" in card
    assert "| `sft` | policy = `policy` |" in card


def test_recipe_is_complete_but_holds_no_secret_and_no_local_path(
    card: str, tmp_path: Path
) -> None:
    text = card.partition("```yaml\n")[2].partition("```")[0]
    recipe = yaml.safe_load(text)
    assert recipe["run"]["seed"] == 3 and recipe["train"]["objective"]["beta"] == 0.1
    assert recipe["score"][0]["path"] == ".../rm"
    assert recipe["score"][1]["api_key"] == "[removed]"
    assert recipe["score"][1]["note"] == "[removed]"
    for secret in ("sk-verysecret", "hf_abcdef", "/home/somebody", str(tmp_path)):
        assert secret not in card


def test_redaction_keeps_ordinary_values() -> None:
    kept: dict[str, Json] = {
        "max_new_tokens": 16,
        "tokenizer": {"kind": "characters"},
        "pad_token": "<pad>",
        "path": "org/model",
        "ratio": "a/b and c/d",
        "share": 0.5,
        "stop": ["</s>", "\n"],
        "format": "https://host/x/y",
    }
    assert redact(kept) == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer [removed]"),
        ("https://me:pw@host/x", "https://[removed]@host/x"),
        ("my-own-token in text", "[removed] in text"),
        ("plain", "plain"),
    ],
)
def test_secrets_in_text_are_removed(text: str, expected: str) -> None:
    assert redact_text(text, ["my-own-token"]) == expected


def test_run_without_evaluation_has_a_card_too(
    run_folder: Path, tmp_path: Path, finish: Callable[..., Path]
) -> None:
    for name in ("start", "iter-000"):
        (run_folder / name / "eval/summary/manifest.json").unlink()
    publish_run(run_folder, Target(folder=tmp_path / "published"))
    card = (tmp_path / "published" / "README.md").read_text()
    assert "## Evaluation" not in card
    assert ModelCard(card).data.eval_results is None
