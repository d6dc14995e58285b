"""Graded closeness of numbers; every reward of the table is built from a recipe's options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import pytest

from align.registry import TABLES, build
from align.rewards.graded import Graded
from align.rewards.protocol import Reward
from tests.rewards.builders import group_of, values_of


def test_graded_reward_of_the_reference_vectors() -> None:
    """ALGORITHMS 12.9: (10.5, 10) -> 0.725; (12, 10) -> 0.4; (0, 0.5) -> 0.250001."""
    scorer = Graded().open()
    groups = [group_of("?", "10", "10.5", "12", "ten", "10"), group_of("?", "1/2", "0")]
    first, second = scorer.score(groups)
    assert [score.value for score in first] == pytest.approx([0.725, 0.4, 0.0, 1.0], abs=1e-6)
    assert [score.parts["parsed"] for score in first] == [1.0, 1.0, 0.0, 1.0]
    assert second[0].value == pytest.approx(0.250001, abs=1e-6)


def test_graded_reads_the_extracted_number_and_needs_a_reference() -> None:
    scorer = Graded(extract=r"= *(\S+)").open()
    groups = [group_of("?", 10, "1 + 1 = 2, so x = 10", "10"), group_of("?", None, "= 1")]
    assert values_of(scorer.score(groups)) == [[1.0, 0.0], [None]]


OPTIONS: dict[str, dict[str, object]] = {
    "reward_model": {"path": "org/rm", "max_length": 512, "dtype": "bfloat16"},
    "ensemble": {
        "members": tuple(
            {"path": path, "label": path, "centre": 0.5, "spread": 2.0} for path in ("a", "b")
        )
    },
    "process_reward": {"path": "org/prm", "aggregate": "last", "activation": "none"},
    "fine_grained": {
        "models": (
            {
                "path": "a",
                "label": "facts",
                "separator": None,
                "weight": 0.3,
                "centre": 0.0,
                "spread": 2.0,
            },
        )
    },
    "pairwise_model": {"path": "org/pm", "slot": "SUMMARY", "temperature": 0.5},
    "pairwise_baseline": {"path": "org/pm", "seed": 3},
    "exact_match": {"extract": "#### (.*)", "remove": ","},
    "math_verify": {"right": 1, "wrong": -1, "timeout": 2.5, "workers": 1},
    "graded": {"extract": "= (.*)"},
    "length": {"unit": "characters", "slope": -0.001},
    "regex": {"pattern": "a+", "full": True},
    "lexicon": {"path": "words.tsv", "clip": 5.0},
    "python": {"function": "math.fsum"},
    "http": {"url": "http://127.0.0.1:5000/get_reward", "retries": 0, "token_variable": "TOKEN"},
    "code": {"language": "c", "compare": "words", "workers": 4},
    "instructions": {"score": "all", "loose": True},
    "numeric": {"find": "boxed", "absolute": 0.5, "relative": 0.01},
    "format_tags": {"around": True, "opened": True, "wrong": -1.0},
    "overlong": {"longest": 512, "margin": 64},
    "cosine_length": {"of": {"name": "exact_match"}, "longest": 512, "unit": "characters"},
    "bleu": {"tokenize": "zh", "extract": "<t>(.*)</t>"},
    "chrf": {"words": 2},
    "answer_clusters": {"equal": "math", "workers": 1},
    "tool_efficiency": {"of": {"name": "exact_match"}, "form": "single", "constant": 2.0},
    "total": {"of": ({"name": "length", "weight": 2}, {"name": "exact_match"})},
    "product": {"of": ({"name": "length", "label": "brief"}, {"name": "exact_match"})},
    "gate": {"when": {"name": "format_tags"}, "then": {"name": "bleu"}, "add": True},
    "clip": {"of": {"name": "length"}, "high": 3.0},
    "threshold": {"of": {"name": "bleu"}, "at": 0.3, "above": 2.0, "below": -1.5},
    "whiten": {"of": {"name": "length"}, "over": "shard"},
    "judge": {"url": "http://127.0.0.1:8000/v1", "model": "m", "sampling": {"temperature": 0.5}},
    "pairwise_judge": {"path": "org/chat", "expected": True},
    "served_reward_model": {"path": "org/rm", "chat_template": "none"},
    "generative_verifier": {"path": "org/verifier", "labels": ("+", "-"), "batch_size": 2},
}


@pytest.mark.parametrize("name", sorted(TABLES["reward"]))
def test_every_reward_is_built_from_its_options(name: str) -> None:
    config: Reward = build("reward", {"name": name, **OPTIONS[name]})
    options = asdict(config)  # pyright: ignore[reportArgumentType]
    assert {key: options[key] for key in OPTIONS[name]} == OPTIONS[name]


def test_configs_are_light() -> None:
    """`align run` and `align check` build them; torch is imported by `open` alone."""
    modules = sorted({target.partition(":")[0] for target in TABLES["reward"].values()})
    script = f"import sys, {', '.join(modules)}; print({{'torch', 'sympy'}} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
