"""Keys that are not there, and values of a wrong type: one error each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.broken import PAIRED, POLICY, PREFS, SAMPLES, check_error, one

KEYS = {
    "unknown section": one(
        POLICY + "trian: {}\n" + PREFS + "}", 2, "trian", "not a key of a recipe", '"train"'
    ),
    "unknown key": one(
        "run:\n  sead: 1\n" + POLICY + PREFS + "}", 2, "run.sead", "not a key of run", '"seed"'
    ),
    "unknown key, nothing near": one(
        "run: {zzzz: 1}\n" + POLICY + PREFS + "}", 1, "run.zzzz", "not a key of run", "iterations"
    ),
    "unknown key in a nested section": one(
        POLICY + PREFS + ",\n  advantage: {base: 1}}",
        3,
        "train.advantage.base",
        "not a key of train.advantage",
        '"baseline"',
    ),
    "missing key": one(
        POLICY + "train:\n  data: {path: b}\n  objective: {name: dpo}\n",
        2,
        "train.global_batch_size",
        "is required",
        'add "global_batch_size" to train',
    ),
    "missing name": one(
        POLICY + "prompts: {path: b}\ngenerate: {n: 4}\n",
        3,
        "generate.name",
        "is required",
        'add "name"',
    ),
    "missing name in a list": one(
        POLICY + "prompts: {path: b}\ngenerate:\n  - {name: vllm}\n  - {n: 4}\n",
        5,
        "generate.1.name",
        "is required",
        'add "name" to generate.1',
    ),
    "text for a whole number": one(
        "run: {seed: '7'}\n" + POLICY + PREFS + "}",
        1,
        "run.seed",
        'must be a whole number, not the text "7"',
        "without quotes",
    ),
    "fraction for a whole number": one(
        "run: {seed: 1.5}\n" + POLICY + PREFS + "}",
        1,
        "run.seed",
        "must be a whole number, not 1.5",
        "change",
    ),
    "number for text": one(
        "policy: {path: a, revision: 1e5}\n" + PREFS + "}",
        1,
        "policy.revision",
        "must be text, not 100000.0",
        "put it in quotes",
    ),
    "text for a switch": one(
        POLICY + PREFS + "}\npublish: {repo: a, private: yes}",
        3,
        "publish.private",
        "must be true or false",
        "change the value",
    ),
    "one for a list": one(
        "run: {report_to: wandb}\n" + POLICY + PREFS + "}",
        1,
        "run.report_to",
        "must be a list",
        "write [wandb]",
    ),
    "wrong choice": one(
        "policy: {path: a, dtype: bfloat}\n" + PREFS + "}",
        1,
        "policy.dtype",
        'must be "float32", "bfloat16" or "float16", not the text "bfloat"',
        '"bfloat16"',
    ),
    "below a bound": one(
        "run: {iterations: 0}\n" + POLICY + PREFS + "}",
        1,
        "run.iterations",
        "must be at least 1, not 0",
        "change",
    ),
    "null": one(POLICY + "run:\n" + PREFS + "}", 2, "run", "must be a mapping, not null", "give a"),
    "text for a section": one(
        POLICY + "prompts: org/p\ngenerate: {name: vllm}\n",
        2,
        "prompts",
        "must be a mapping",
        "write {path: org/p}",
    ),
    "text for one or several": one(
        SAMPLES + "score: length\n",
        4,
        "score",
        "must be a mapping or a list",
        "write {name: length}",
    ),
    "wrong choice among shapes": one(
        POLICY + PREFS + ",\n  reference: prevous}",
        3,
        "train.reference",
        'must be "initial", "previous" or a mapping',
        '"previous"',
    ),
    "inside the right shape": one(
        "run: {iterations: 2}\n" + PAIRED + "train:\n  objective: {name: dpo}\n"
        "  global_batch_size: 8\n  history: {window: 0}\n",
        10,
        "train.history.window",
        "must be at least 1, not 0",
        "change",
    ),
    "number or choice": one(
        POLICY + PREFS + ", advantage: {baseline: mean}}",
        2,
        "train.advantage.baseline",
        "a number, not",
        'did you mean "group_mean"?',
    ),
    "inside made preferences": one(
        POLICY + "prompts: {path: b}\nreward:\n  data:\n    generate: {n: 3}\n"
        "    score: {name: length}\n    pair: {name: max_min}\n",
        5,
        "reward.data.generate.name",
        "is required",
        "add",
    ),
    "missing inside made preferences": one(
        POLICY + "prompts: {path: b}\nreward:\n  data:\n    generate: {name: vllm}\n"
        "    score: {name: length}\n",
        4,
        "reward.data.pair",
        "is required",
        'add "pair" to reward.data',
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_error_has_file_line_key_and_remedy(name: str, tmp_path: Path) -> None:
    check_error(KEYS[name], tmp_path)
