"""Sections that do not go together: policy, data, samples, evaluation, publishing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.broken import PAIRED, POLICY, PREFS, SAMPLES, SCORED, check_error, one

EVALUATED = SCORED + "evaluate: {prompts: {path: c}"

RULES = {
    "nothing to do": one(POLICY, 1, None, "nothing to do", "add sft"),
    "name that leaves runs": one(
        "run: {name: ../x}\n" + SCORED, 1, "run.name", "not the name of a folder", "--out"
    ),
    "no sampler": one(POLICY + "generate: []\n", 2, "generate", "empty list", "name one"),
    "policy twice": one(
        "policy: {path: a, config: {model_type: llama}}\n" + PREFS + "}",
        1,
        "policy",
        "both path and config",
        "exactly one",
    ),
    "policy not given": one(
        "policy: {dtype: float32}\n" + PREFS + "}", 1, "policy", "neither path nor", "exactly one"
    ),
    "policy without tokenizer": one(
        "policy: {config: {model_type: llama}}\n" + PREFS + "}",
        1,
        "policy.tokenizer",
        "required with policy.config",
        "kind: characters",
    ),
    "policy without model type": one(
        "policy:\n  config: {hidden_size: 4}\n  tokenizer: {path: t}\n" + PREFS + "}",
        2,
        "policy.config.model_type",
        "is required",
        "model_type: llama",
    ),
    "tokenizer key": one(
        "policy:\n  config: {model_type: llama}\n"
        '  tokenizer: {kind: characters, alphabet: "01", alphabt: "2"}\n' + PREFS + "}",
        3,
        "policy.tokenizer.alphabt",
        "is not a key of policy.tokenizer",
        '"alphabet"',
    ),
    "tokenizer says nothing": one(
        "policy: {config: {model_type: llama}, tokenizer: {kind: words}}\n" + PREFS + "}",
        1,
        "policy.tokenizer",
        "neither which alphabet nor which path",
        "kind: characters",
    ),
    "tokenizer beside a path": one(
        "policy: {path: a, tokenizer: {path: b}}\n" + PREFS + "}",
        1,
        "policy.tokenizer",
        "only for a policy made from config",
        "remove it",
    ),
    "revision of a config": one(
        "policy: {config: {model_type: llama}, tokenizer: {path: b}, revision: c}\n" + PREFS + "}",
        1,
        "policy.revision",
        "only for a policy with a path",
        "remove it",
    ),
    "generate without policy": one(
        "prompts: {path: a}\ngenerate: {name: vllm}\n", 2, "generate", "needs a policy", "add"
    ),
    "generate without prompts": one(
        POLICY + "generate: {name: vllm}\n", 2, "generate", "needs prompts", "add prompts"
    ),
    "made preferences without prompts": one(
        POLICY + "reward:\n  data: {generate: {name: vllm, n: 2}, score: {name: length}, "
        "pair: {name: max_min}}\n",
        3,
        "reward.data",
        "needs prompts",
        "add prompts",
    ),
    "score without samples": one(
        POLICY + PREFS + "}\nscore: {name: length}\n", 3, "score", "no samples", "add generate"
    ),
    "select without samples": one(
        POLICY + PREFS + "}\nselect: {name: best_of_n}\n", 3, "select", "no samples", "add generate"
    ),
    "pair without scores": one(
        SAMPLES + "pair: {name: max_min}\n", 4, "pair", "needs scores", "add score"
    ),
    "quantisation of what is trained": one(
        "policy: {path: a, quantization: {bits: 4}}\n" + PREFS + "}",
        1,
        "policy.quantization",
        "no adapter to train",
        "add policy.peft",
    ),
    "stop that bounds nothing": one(
        POLICY + PREFS + ", stop: {}}", 2, "train.stop", "bounds nothing", "set kl or chosen"
    ),
    "reward model that is not trained": one(
        SAMPLES + "score: {name: reward_model}\n", 4, "score", "names no reward", "add its path"
    ),
    "reward model that scores its own data": one(
        POLICY + "prompts: {path: b}\nreward:\n  data:\n    generate: {name: vllm, n: 2}\n"
        "    score: {name: reward_model}\n    pair: {name: max_min}\n",
        6,
        "reward.data.score",
        "the reward model that it trains",
        "add a path",
    ),
    "source twice": one(
        POLICY + "sft: {data: {path: b, mix: [{path: c}]}}\n",
        2,
        "sft.data",
        "has path and mix",
        "exactly one",
    ),
    "source not given": one(
        POLICY + "prompts: {split: test}\ngenerate: {name: vllm}\n",
        2,
        "prompts",
        "has no path, name or mix",
        "exactly one",
    ),
    "empty mix": one(
        POLICY + "sft: {data: {mix: []}}\n", 2, "sft.data.mix", "empty list", "name sources"
    ),
    "iterations without training": one(
        "run: {iterations: 2}\n" + SAMPLES, 1, "run.iterations", "needs train", "set it to 1"
    ),
    "iterations over the same data": one(
        "run: {iterations: 2}\n" + POLICY + PREFS + "}",
        1,
        "run.iterations",
        "needs generate",
        "num_train_epochs",
    ),
    "evaluation without scores": one(
        SAMPLES + "evaluate: {prompts: {path: c}}\n", 4, "evaluate", "needs scores", "add evaluate"
    ),
    "evaluation without a sampler": one(
        POLICY + PREFS + "}\nevaluate: {prompts: {path: c}, score: {name: length}}\n",
        3,
        "evaluate",
        "has no sampler",
        "add evaluate.generate",
    ),
    "evaluation of stored samples": one(
        SCORED + "evaluate:\n  prompts: {path: c}\n  generate: {name: stored, path: d}\n",
        7,
        "evaluate.generate",
        "do not come from the policy",
        "name a sampler",
    ),
    "prompts that nothing samples": one(
        POLICY + "prompts: {path: b}\n" + PREFS + "}",
        2,
        "prompts",
        "nothing samples",
        "remove prompts",
    ),
    "a pair of one sample": one(
        PAIRED.replace(", n: 4", ""), 3, "generate.n", "one sample makes no pair", "2 or more"
    ),
    "two sources of one name": one(
        SAMPLES + "score:\n  - {name: length}\n  - {name: exact_match}\n  - {name: length}\n",
        7,
        "score.2",
        'is a second source called "length"',
        "give it a label",
    ),
    "no source counts": one(
        SAMPLES + "score: {name: length, weight: 0.0}\n",
        4,
        "score.weight",
        "is 0, as all are",
        "let one source count",
    ),
    "publishing nowhere": one(
        POLICY + PREFS + "}\npublish: {}\n", 3, "publish", "has no target", "repo: org/name"
    ),
    "publishing to two places": one(
        POLICY + PREFS + "}\npublish: {repo: a, folder: b}\n",
        3,
        "publish.folder",
        "stands beside repo",
        "remove one",
    ),
    "votes weighed by nothing": one(
        EVALUATED + ", vote: {weight: judge}}\n",
        5,
        "evaluate.vote.weight",
        '"judge" names no source of the evaluation',
        "name one of length",
    ),
    "votes of a broken pattern": one(
        EVALUATED + ", vote: {extract: '(('}}\n",
        5,
        "evaluate.vote.extract",
        "is not a regular expression",
        "re module",
    ),
    "verdicts that are one": one(
        SAMPLES + "score: {name: exact_match, wrong: 1}\n",
        4,
        "score.right",
        "is 1, as wrong is",
        "let them differ",
    ),
    "publishing nothing": one(
        SAMPLES + "publish: {repo: a}\n", 4, "publish", "has no model", "add sft"
    ),
    "split of a built-in set": one(
        POLICY + "sft: {data: {mix: [{name: addition, split: 'train[:9]+tset'}]}}\n",
        2,
        "sft.data.mix.0.split",
        'names "tset", which is no split of addition',
        "it has train, prompts, validation, test",
    ),
    "split that is no expression": one(
        POLICY + "sft: {data: {name: addition, split: 'train[9'}}\n",
        2,
        "sft.data.split",
        "which is not understood",
        "a slice like train[:100]",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_error_has_file_line_key_and_remedy(name: str, tmp_path: Path) -> None:
    check_error(RULES[name], tmp_path)
