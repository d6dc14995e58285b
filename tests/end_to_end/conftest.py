"""A small but whole recipe: everything that the quickstart does, at a hundredth of its size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

TINY_POLICY = """policy:
  config:
    model_type: llama
    hidden_size: 64
    intermediate_size: 64
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 2
    max_position_embeddings: 32
    tie_word_embeddings: false
  tokenizer: {kind: characters, alphabet: "0123456789+="}
  chat_template: none
"""
"""The `policy` section of the recipes here: vLLM on the CPU can run its heads."""

SMALL = (
    "\nrun: {name: small, seed: 3, iterations: 2}\n"
    + TINY_POLICY
    + """\
sft:
  data: {name: addition, digits: 1, split: train}
  stop: {score: exact_match, at: 0.9, every: 15, count: 8, max_new_tokens: 4}
  global_batch_size: 16
  max_length: 16
  args: {learning_rate: 1.0e-2, max_steps: 30, save_steps: 10}
prompts: {name: addition, digits: 1, split: prompts, per_iteration: 16}
generate: {name: vllm, n: 8, temperature: 1.0, max_new_tokens: 4}
score: {name: exact_match}
select: {name: statistical_rejection, beta: 0.5, keep: 6}
pair: {name: max_min, truncated: keep}
train:
  objective: {name: dpo, loss: sigmoid, beta: 1.0}
  reference: previous
  global_batch_size: 4
  args: {learning_rate: 1.0e-3, num_train_epochs: 2, save_steps: 2}
evaluate:
  prompts: {name: addition, digits: 1, split: test}
  generate: {name: vllm, n: 2, temperature: 1.0, max_new_tokens: 4}
"""
)


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL)
    return path


def contents(out: Path) -> dict[str, str]:
    """Step -> content hash."""
    found = {}
    for path in sorted(out.rglob("manifest.json")):
        manifest = json.loads(path.read_text())
        found[manifest["step"]] = manifest["content"]
    return found


def quiet_environment() -> dict[str, str]:
    """This process's environment, with one thread a rank: the sums' last bits depend on their
    number.
    """
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start_align(arguments: Sequence[object], prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """`align ...` in a process of its own, one thread a rank, output in pipes; `prefix` is the
    command that becomes it.
    """
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "align", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=quiet_environment(),
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(scope="session")
def run_align() -> Callable[..., str]:
    """Runs `align ...` and returns what it printed; the exit status must be `expect` (0)."""

    def run(*arguments: object, expect: int = 0) -> str:
        process = start_align(arguments)
        output, _ = process.communicate(timeout=1500)
        assert process.returncode == expect, output
        return output

    return run


@pytest.fixture(scope="session")
def small_run(
    tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, run_align: Callable[..., str]
) -> tuple[Path, str]:
    """One undisturbed run of the small recipe, shared by all tests that only look: (folder,
    output).
    """
    out = tmp_path_factory.mktemp("runs") / "small"
    cache = f"run.cache={out.parent / 'cache'}"
    return out, run_align("run", small_recipe, "--out", out, "--set", cache)
