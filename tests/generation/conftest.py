"""One vLLM engine for all tests that need one, and what they compare it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from align.generation.protocol import Setting
from align.generation.vllm import Vllm, VllmSampler
from align.records import Prompt, Sample, WeightsRef

SETTING = Setting(seed=11)
PROMPTS = [
    Prompt.of(text)
    for text in (
        "Once upon a time, there was a",
        "The little dog",
        "Lily saw a big red ball in the garden. She",
    )
]


@pytest.fixture(scope="session")
def stories(shared: Path) -> WeightsRef:
    """The real TinyStories checkpoint with heads of 32; its head is tied."""
    return WeightsRef(str(shared / "models" / "tinystories-llama-260k-hd32"))


@pytest.fixture(scope="session")
def open_engine(
    stories: WeightsRef, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmSampler]:
    """The only start of a vLLM engine that a session pays in full."""
    log = tmp_path_factory.mktemp("vllm") / "engine.log"
    sampler = Vllm().open(stories, SETTING, log)
    yield sampler
    sampler.close()


@pytest.fixture
def vllm_sampler(
    open_engine: VllmSampler, stories: WeightsRef
) -> Iterator[Callable[..., VllmSampler]]:
    """`vllm_sampler(n=4, temperature=.7)`: the session's engine under these options, holding "
    "the stories model."""
    open_engine.sync(stories)

    def adopt(setting: Setting = SETTING, **options: object) -> VllmSampler:
        adopted = Vllm(**options).adopt(open_engine, setting)  # pyright: ignore[reportArgumentType]
        assert isinstance(adopted, VllmSampler)
        return adopted

    yield adopt


def expected_logps(weights: WeightsRef, sample: Sample) -> list[float]:
    """Log-probs of a sample's tokens by the library's own model and logits warpers."""
    model = AutoModelForCausalLM.from_pretrained(weights.base, dtype=torch.float32).eval()
    ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sample.temperature)])
    if sample.top_k:
        warpers.append(TopKLogitsWarper(sample.top_k))
    if sample.top_p < 1:
        warpers.append(TopPLogitsWarper(sample.top_p))
    logps = warpers(ids, logits).log_softmax(-1)
    return logps.gather(-1, torch.tensor(sample.completion_ids)[:, None])[:, 0].tolist()


def largest_gap(ours: Sequence[float] | None, theirs: Sequence[float]) -> float:
    """Largest difference of two rows of log-probs."""
    assert ours is not None and len(ours) == len(theirs)
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
