"""Fixtures that all tests share: where the real data lie, and one tiny policy made on the spot."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see align/launch/__init__.py
# Before TRL, which silences vLLM in every process that imports it; samplers' own processes do not.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align.records import Sample, Score

# A shell's background jobs ignore Ctrl-C, and so would every `align` that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

Group = tuple[list[Sample], list[Score]]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and checkpoints: `ALIGN_SHARED`, default `../shared`."""
    for candidate in (
        os.environ.get("ALIGN_SHARED"),
        ROOT.parent / "shared",
        ROOT.parent.parent / "shared",
    ):
        if candidate and (Path(candidate) / "data" / "README.md").is_file():
            return Path(candidate)
    pytest.fail(
        "the shared data are missing: set ALIGN_SHARED to the folder that holds data/ and models/"
    )


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved fp32 Llama (2 layers, 64 wide, heads of 32) with a character tokenizer over
    arithmetic.
    """
    from align.models import make_policy
    from align.recipe.sections import Policy

    folder = tmp_path_factory.mktemp("tiny-llama")
    policy = Policy(
        config={
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "tie_word_embeddings": False,
        },
        tokenizer={"kind": "characters", "alphabet": "0123456789+-*/()=. "},
    )
    make_policy(policy, folder, seed=0)
    return folder


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """`make_group(values, tokens=..., cut=...)`: token ids a sample, and which are truncated."""

    def make(
        values: Sequence[float | None],
        *,
        tokens: Sequence[tuple[int, ...]] | None = None,
        cut: Sequence[int] = (),
    ) -> Group:
        ids = tokens or [(100 + place,) for place in range(len(values))]
        samples = [
            Sample(
                sample_id=f"s{place}",
                prompt_id="p",
                index=place,
                policy="",
                prompt_ids=(1,),
                completion_ids=ids[place],
                loss_mask=(1,) * len(ids[place]),
                logps=None,
                text="",
                finish="length" if place in cut else "stop",
            )
            for place in range(len(values))
        ]
        return samples, [
            Score(f"s{place}", value, error=None if value is not None else "timeout")
            for place, value in enumerate(values)
        ]

    return make
