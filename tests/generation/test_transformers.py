from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from align.data.fingerprint import fingerprint
from align.errors import NumericsError, SetupError
from align.generation.transformers import Transformers, TransformersSampler
from align.inference.probe import write_probe
from align.records import Prompt, Sample, WeightsRef
from align.registry import build
from tests.generation.conftest import PROMPTS, SETTING, expected_logps, largest_gap

SUMS = [Prompt.of(text) for text in ("1+2=", "12*(3-4)=", "7/", "100+200+300=")]


def _draw(weights: WeightsRef, prompts: list[Prompt], **options: object) -> list[Sample]:
    sampler = Transformers(**options).open(weights, SETTING)  # pyright: ignore[reportArgumentType]
    return list(sampler.generate(prompts))


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"temperature": 0.7, "top_k": 20}, {"top_k": 50, "top_p": 0.8}],
)
def test_logps_are_those_of_the_distribution_sampled_from(
    stories: WeightsRef, options: dict[str, float]
) -> None:
    for sample in _draw(stories, PROMPTS, n=2, max_new_tokens=30, **options):
        assert largest_gap(sample.logps, expected_logps(stories, sample)) < 1e-4


def test_tokens_depend_on_no_other_sample(tiny_llama: Path) -> None:
    weights = WeightsRef(str(tiny_llama))
    together = {s.sample_id: s for s in _draw(weights, SUMS, n=6, max_new_tokens=40)}
    others = _draw(weights, SUMS[::-1], n=6, max_new_tokens=40, batch_size=5)
    assert [s.prompt_id for s in others[::6]] == [p.prompt_id for p in SUMS[::-1]]
    assert [s.index for s in others[:6]] == [0, 1, 2, 3, 4, 5]
    assert {s.sample_id for s in others} == set(together)
    assert all(largest_gap(s.logps, together[s.sample_id].logps or ()) < 1e-5 for s in others)
    assert len({s.completion_ids for s in others}) > 20


def test_completions_end_with_the_generated_end_token_or_none(tiny_llama: Path) -> None:
    """Random weights over 23 tokens draw the end token about once in 23."""
    samples = _draw(WeightsRef(str(tiny_llama)), SUMS, n=8, max_new_tokens=30)
    ends = {s.completion_ids[-1] for s in samples if s.finish == "stop"}
    assert len(ends) == 1
    (end,) = ends
    for sample in samples:
        assert end not in sample.completion_ids[:-1]
        if sample.finish == "length":
            assert len(sample.completion_ids) == 30 and sample.completion_ids[-1] != end
    assert {s.finish for s in samples} == {"stop", "length"}


def test_stop_strings_cut_the_text_and_keep_the_tokens(stories: WeightsRef) -> None:
    samples = _draw(
        stories, PROMPTS, n=4, temperature=0.7, max_new_tokens=100, stop=("She", "He ", ".")
    )
    for sample in samples:
        assert not any(string in sample.text for string in ("She", "He ", "."))
    (longest,) = sorted(samples, key=lambda s: len(s.completion_ids))[-1:]
    free = _draw(stories, PROMPTS, n=4, temperature=0.7, max_new_tokens=100)
    (same,) = [s for s in free if (s.prompt_id, s.index) == (longest.prompt_id, longest.index)]
    size = len(longest.completion_ids)
    assert same.completion_ids[:size] == longest.completion_ids
    assert same.text.startswith(longest.text) and len(same.text) > len(longest.text)


def test_a_prompt_without_room_for_its_completion_yields_no_sample(tiny_llama: Path) -> None:
    """The context is 128 tokens: 100 new ones leave 28 for the prompt."""
    long = Prompt.of("1+" * 40 + "1=")
    samples = _draw(WeightsRef(str(tiny_llama)), [long, SUMS[0]], n=2, max_new_tokens=100)
    assert [s.prompt_id for s in samples] == [SUMS[0].prompt_id] * 2
    with pytest.raises(SetupError, match="leaves no room for a prompt"):
        Transformers(max_new_tokens=128).open(WeightsRef(str(tiny_llama)), SETTING)


def test_logps_that_are_not_numbers_are_marked(tiny_llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    folder = tmp_path / "broken"
    model.save_pretrained(folder)
    for path in tiny_llama.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (sample,) = _draw(WeightsRef(str(folder)), SUMS[:1], max_new_tokens=4)
    assert sample.logps is None
    assert sample.meta == {"invalid": "a log-prob is not finite"}


def test_continuous_batching_gives_the_greedy_tokens(stories: WeightsRef) -> None:
    plain = _draw(stories, PROMPTS, temperature=0.0, max_new_tokens=60)
    continuous = _draw(
        stories, PROMPTS, temperature=0.0, max_new_tokens=60, continuous_batching=True, batch_size=2
    )
    assert [s.completion_ids for s in plain] == [s.completion_ids for s in continuous]
    assert [s.finish for s in plain] == [s.finish for s in continuous]


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.0, "stop": (".",)}])
def test_continuous_batching_says_what_it_cannot_serve(
    stories: WeightsRef, options: dict[str, float]
) -> None:
    key = "stop" if "stop" in options else "temperature"
    with pytest.raises(SetupError, match=rf"generate.{key} cannot be had with continuous_batching"):
        _draw(stories, PROMPTS, continuous_batching=True, **options)


def test_adapters_and_other_weights_replace_the_model(tiny_llama: Path, tmp_path: Path) -> None:
    base = WeightsRef(str(tiny_llama))
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama),
        LoraConfig(
            r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
        ),
    )
    model.save_pretrained(tmp_path)
    adapted = replace(base, adapter=str(tmp_path))
    sampler = Transformers(n=2, max_new_tokens=20).open(base, SETTING)
    rows = [((1, 5, 6), (7, 8))]
    with torch.no_grad():
        logps = model.eval()(torch.tensor([[1, 5, 6, 7, 8]])).logits[0].log_softmax(-1)
    expected = [logps[2, 7].item(), logps[3, 8].item()]
    before = sampler.logps(rows)[0]
    assert largest_gap(before, expected) > 1e-3
    write_probe(tmp_path, rows, [expected])
    sampler.sync(adapted)
    assert largest_gap(sampler.logps(rows)[0], expected) < 1e-5
    assert next(iter(sampler.generate(SUMS))).policy == fingerprint(adapted)
    write_probe(tmp_path, rows, [before])
    with pytest.raises(NumericsError, match="still differ"):
        sampler.sync(adapted)


def test_a_model_is_shared_between_options(tiny_llama: Path) -> None:
    weights = WeightsRef(str(tiny_llama))
    first = Transformers(n=2, max_new_tokens=20).open(weights, SETTING)
    second = Transformers(n=1, max_new_tokens=20).adopt(first, replace(SETTING, first_index=1))
    assert isinstance(second, TransformersSampler)
    both = list(first.generate(SUMS[:1]))
    (again,) = second.generate(SUMS[:1])
    assert (again.sample_id, again.completion_ids) == (both[1].sample_id, both[1].completion_ids)
    assert Transformers().adopt(first, replace(SETTING, dtype="bfloat16")) is None


def test_options_are_checked_by_the_registry() -> None:
    assert build("generator", {"name": "vllm", "n": 4, "stop": ["\n"]}).n == 4
    for name, options, message in (
        ("vllm", {"temperature": -1.0}, "temperature"),
        ("transformers", {"top_p": 0.0}, "top_p"),
        ("stored", {}, "path"),
        ("vllm", {"gpu_memory_utilization": 0.5}, "gpu_memory_utilization"),
    ):
        with pytest.raises(ValueError, match=message):
            build("generator", {"name": name, **options})
