"""Real vLLM on the CPU against transformers: tokens, log-probs, stops, weight reloads, adapters."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from align.data.fingerprint import fingerprint
from align.errors import NumericsError, SetupError
from align.generation.protocol import Setting
from align.generation.transformers import Transformers
from align.generation.vllm import Vllm, VllmSampler
from align.inference.decode import ModelDecoder
from align.inference.probe import check_probe, write_probe
from align.inference.vllm_worker import WeightSync
from align.records import Prompt, WeightsRef, derive_seed
from align.stages.engine import Engine
from tests.generation.conftest import PROMPTS, SETTING, expected_logps, largest_gap

pytestmark = pytest.mark.vllm
Adopt = Callable[..., VllmSampler]

ROWS = [((1, 403, 407, 261), (378, 432, 383, 286)), ((1, 410, 411), (420, 300))]


def _varied(weights: WeightsRef, folder: Path, seed: int) -> WeightsRef:
    """The same model with noise on every weight, and a probe beside it."""
    shutil.copytree(weights.base, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    model = AutoModelForCausalLM.from_pretrained(weights.base)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    model.save_pretrained(folder)
    varied = WeightsRef(str(folder))
    write_probe(folder, ROWS, ModelDecoder(varied, "float32").score(ROWS))
    return varied


def _adapter(weights: WeightsRef, folder: Path, seed: int, **options: object) -> WeightsRef:
    """A LoRA adapter with random weights, so that it does something."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(weights.base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05)
    model.save_pretrained(folder)
    adapted = replace(weights, adapter=str(folder))
    write_probe(folder, ROWS, ModelDecoder(adapted, "float32").score(ROWS))
    return adapted


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 1.3, "top_k": 50, "top_p": 0.8},
    ],
)
def test_logps_are_those_of_the_distribution_sampled_from(
    vllm_sampler: Adopt, stories: WeightsRef, options: dict[str, float]
) -> None:
    for sample in vllm_sampler(n=2, max_new_tokens=40, **options).generate(PROMPTS):
        assert largest_gap(sample.logps, expected_logps(stories, sample)) < 1e-4


def test_tokens_depend_on_no_other_sample(vllm_sampler: Adopt) -> None:
    sampler = vllm_sampler(n=6, temperature=0.9, max_new_tokens=40)
    together = {s.sample_id: s for s in sampler.generate(PROMPTS)}
    reversed_order = list(sampler.generate(PROMPTS[::-1]))
    assert [s.prompt_id for s in reversed_order[::6]] == [p.prompt_id for p in PROMPTS[::-1]]
    assert {s.sample_id for s in reversed_order} == set(together)
    alone = vllm_sampler(replace(SETTING, first_index=5), n=1, temperature=0.9, max_new_tokens=40)
    (sixth,) = alone.generate([PROMPTS[1]])
    assert sixth.index == 5
    assert sixth.completion_ids == together[sixth.sample_id].completion_ids
    assert largest_gap(sixth.logps, together[sixth.sample_id].logps or ()) < 1e-4


def test_samples_say_where_they_come_from(vllm_sampler: Adopt, stories: WeightsRef) -> None:
    sampler = vllm_sampler(n=2, temperature=0.7, top_k=9, top_p=0.9, max_new_tokens=5)
    first, second = list(sampler.generate(PROMPTS[:1]))
    assert [first.index, second.index] == [0, 1]
    assert first.policy == fingerprint(stories)
    assert (first.temperature, first.top_k, first.top_p) == (0.7, 9, 0.9)
    assert first.seed == derive_seed(SETTING.seed, PROMPTS[0].prompt_id, 0) != second.seed
    assert first.loss_mask == (1,) * len(first.completion_ids)
    assert first.prompt_ids[0] == 1
    assert first.text.startswith(" ")  # a completion begins with the space that the prompt lacks


def test_greedy_tokens_equal_those_of_transformers(
    vllm_sampler: Adopt, stories: WeightsRef
) -> None:
    ours = list(vllm_sampler(temperature=0.0, max_new_tokens=80).generate(PROMPTS))
    theirs = list(
        Transformers(temperature=0.0, max_new_tokens=80).open(stories, SETTING).generate(PROMPTS)
    )
    assert [s.completion_ids for s in ours] == [s.completion_ids for s in theirs]
    assert [s.text for s in ours] == [s.text for s in theirs]
    assert ours[0].logps == (0.0,) * 80


def test_scores_ignore_temperature_and_cuts(vllm_sampler: Adopt, stories: WeightsRef) -> None:
    found = vllm_sampler(temperature=0.5, top_k=3).logps(ROWS)
    expected = ModelDecoder(stories, "float32").score(ROWS)
    assert [len(row) for row in found] == [4, 2]
    assert max(map(largest_gap, found, expected)) < 1e-4


def test_completions_end_with_the_generated_end_token_or_none(vllm_sampler: Adopt) -> None:
    """generation_config.json ends stories with <s> (1) or </s> (2); only <s> was ever trained."""
    samples = list(vllm_sampler(n=8, max_new_tokens=300).generate(PROMPTS))
    stopped = [s for s in samples if s.finish == "stop"]
    cut = [s for s in samples if s.finish == "length"]
    assert stopped and cut
    assert all(s.completion_ids[-1] == 1 and not {1, 2} & {*s.completion_ids[:-1]} for s in stopped)
    assert all(len(s.completion_ids) == 300 and not {1, 2} & {*s.completion_ids} for s in cut)
    assert all("<s>" not in s.text for s in stopped)


def test_stop_strings_cut_the_text_and_keep_the_tokens(vllm_sampler: Adopt) -> None:
    sampler = vllm_sampler(n=4, temperature=0.7, max_new_tokens=120, stop=(".",))
    samples = [s for s in sampler.generate(PROMPTS) if s.finish == "stop"]
    assert len(samples) > 6
    for sample in samples:
        assert "." not in sample.text
        spelled = sampler._desk.tokenizer.decode(sample.completion_ids)
        assert isinstance(spelled, str) and spelled.endswith((".", '."'))
        assert sample.logps is not None and len(sample.logps) == len(sample.completion_ids)


def test_a_prompt_without_room_for_its_completion_yields_no_sample(vllm_sampler: Adopt) -> None:
    """The context is 512 tokens: 500 new ones leave 12 for the prompt; "ab" takes more than two."""
    long = Prompt.of("The dog ran to the big house and then he sat down to eat the cake. " * 3)
    samples = list(vllm_sampler(max_new_tokens=500).generate([long, PROMPTS[1]]))
    assert [s.prompt_id for s in samples] == [PROMPTS[1].prompt_id]
    with pytest.raises(SetupError, match=r"max_new_tokens 512 leaves no room .* 512 tokens"):
        vllm_sampler(max_new_tokens=512)


def test_leaving_early_leaves_nothing_behind(vllm_sampler: Adopt) -> None:
    sampler = vllm_sampler(n=3, max_new_tokens=30)
    whole = [s.completion_ids for s in sampler.generate(PROMPTS)]
    stream = sampler.generate(PROMPTS)
    next(stream)
    stream.close()
    assert [s.completion_ids for s in sampler.generate(PROMPTS)] == whole


def test_reload_takes_over_tied_heads_and_drops_cached_prefixes(
    vllm_sampler: Adopt, stories: WeightsRef, tmp_path: Path
) -> None:
    varied = _varied(stories, tmp_path / "varied", seed=1)
    long = Prompt.of("The dog ran to the big house and then he sat down to eat the cake. " * 8)
    sampler = vllm_sampler(n=2, max_new_tokens=20)
    before = list(sampler.generate([long]))  # fills the prefix cache with the old weights
    assert len(before[0].prompt_ids) > 128
    sampler.sync(varied)
    assert not sampler.misses
    assert sampler.watch.last is not None and sampler.watch.last.largest < 1e-4
    after = list(sampler.generate([long]))
    assert after[0].policy == fingerprint(varied) != before[0].policy
    for sample in after:
        assert largest_gap(sample.logps, expected_logps(varied, sample)) < 1e-4


def test_a_stale_tied_head_is_caught_by_the_probe_and_cured_by_a_restart(
    vllm_sampler: Adopt, stories: WeightsRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STACK.md: without the cure `reload_weights` leaves the packed copy of a tied lm_head as it
    was. The stage's engine says so in one line, and counts it.
    """
    varied = _varied(stories, tmp_path / "varied", seed=2)
    sampler = vllm_sampler()
    monkeypatch.setattr(WeightSync, "refresh_embeddings", lambda self: 0)
    sampler._engine.reload(varied)
    expected = ModelDecoder(varied, "float32").score(ROWS)
    stale = check_probe(sampler.logps(ROWS), expected, "float32")
    assert stale.is_miss and stale.largest > 0.01
    sampler._engine.reload(stories)
    engine = Engine(tmp_path / "engine.log", stays=True)
    engine._sampler, engine._weights = sampler, stories
    cured = engine.serve(Vllm(), varied, SETTING)
    assert not check_probe(cured.logps(ROWS), expected, "float32").is_miss
    (miss,) = cured.misses
    assert miss.largest == pytest.approx(stale.largest, rel=1e-3)
    (line,) = engine.take_notes()
    said = r"engine started anew in (\S+) s: it did not hold the trainer's weights, .* up to "
    match = re.fullmatch(said + r"(\S+) nats away \(allowed 0\.0001\)", line)
    assert match is not None and float(match[2]) == pytest.approx(stale.largest, rel=1e-2)
    assert engine.take_restarts() == 1


def test_a_probe_of_other_weights_is_an_error_after_one_restart(
    vllm_sampler: Adopt, stories: WeightsRef, tmp_path: Path
) -> None:
    varied = _varied(stories, tmp_path / "varied", seed=3)
    other = ModelDecoder(stories, "float32").score(ROWS)
    write_probe(Path(varied.base), ROWS, other)
    sampler = vllm_sampler()
    with pytest.raises(NumericsError, match="still differ from the trainer's"):
        sampler.sync(varied)
    assert len(sampler.misses) == 1


def test_untied_weights_of_another_architecture_are_loaded(
    vllm_sampler: Adopt, tiny_llama: Path
) -> None:
    tiny = WeightsRef(str(tiny_llama))
    rows = [((1, 5, 6), (7, 8, 9))]
    sampler = vllm_sampler(max_new_tokens=16)  # its context is 128
    sampler.sync(tiny)
    expected = ModelDecoder(tiny, "float32").score(rows)
    assert largest_gap(sampler.logps(rows)[0], expected[0]) < 1e-4


def test_adapters_are_sampled_from_without_a_merge_and_odd_ones_with(
    vllm_sampler: Adopt, stories: WeightsRef, tmp_path: Path
) -> None:
    first = _adapter(stories, tmp_path / "first", 1)
    second = _adapter(stories, tmp_path / "second", 2)
    odd = _adapter(stories, tmp_path / "odd", 3, use_dora=True)
    sampler = vllm_sampler(n=2, temperature=0.7, max_new_tokens=20)
    for weights, is_merged in ((first, False), (second, False), (odd, True)):
        sampler.sync(weights)
        assert not sampler.misses
        assert sampler.watch.last is not None and sampler.watch.last.largest < 1e-4
        assert sampler._engine.loaded.is_merged == is_merged
        samples = list(sampler.generate(PROMPTS[:1]))
        assert samples[0].policy == fingerprint(weights)
        decoder = ModelDecoder(weights, "float32")
        rows = [(s.prompt_ids, s.completion_ids) for s in samples]
        assert max(map(largest_gap, sampler.logps(rows), decoder.score(rows))) < 1e-4
    sampler.sync(stories)


def test_engines_are_shared_only_where_they_would_be_the_same(vllm_sampler: Adopt) -> None:
    sampler = vllm_sampler()
    assert Vllm(temperature=0.3).adopt(sampler, replace(SETTING, seed=2)) is not None
    assert Vllm(max_model_len=64).adopt(sampler, SETTING) is None
    assert Vllm().adopt(sampler, replace(SETTING, dtype="bfloat16")) is None
    assert Transformers().adopt(sampler, SETTING) is None


def test_heads_that_the_cpu_cannot_run_are_refused_before_the_engine_starts(shared: Path) -> None:
    small = WeightsRef(str(shared / "models" / "tinystories-llama-260k"))
    with pytest.raises(SetupError, match=r"config.json: .* heads of 8 dimensions .* transformers"):
        Vllm().open(small, Setting(seed=0))


def test_chatter_goes_to_the_log(open_engine: VllmSampler) -> None:
    log = open_engine._log
    assert log is not None
    text = log.read_text()
    assert "Initializing a V1 LLM engine" in text
