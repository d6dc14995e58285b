"""The sampler that a worker keeps: other weights, other options, rest; the same samples as anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn
from transformers import AutoModelForCausalLM

from align.generation.protocol import Setting
from align.generation.transformers import Transformers
from align.inference.decode import ModelDecoder
from align.inference.probe import write_probe
from align.records import Prompt, Sample, WeightsRef
from align.stages.engine import Engine, read_restarts, write_restarts

PROMPTS = [Prompt.of("1+1="), Prompt.of("2+2=")]
SETTING = Setting(seed=5)


@pytest.fixture(scope="module")
def other(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> WeightsRef:
    """The next iteration's weights."""
    folder = tmp_path_factory.mktemp("other")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(folder)
    for path in tiny_llama.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return WeightsRef(str(folder))


def _fresh(options: Transformers, weights: WeightsRef) -> list[Sample]:
    sampler = options.open(weights, SETTING)
    return list(sampler.generate(PROMPTS))


def test_a_kept_sampler_draws_what_a_new_one_would(
    tiny_llama: Path, other: WeightsRef, tmp_path: Path
) -> None:
    first = WeightsRef(str(tiny_llama))
    plain = Transformers(n=2, max_new_tokens=6)
    warm = Transformers(n=3, max_new_tokens=4, temperature=0.7)
    engine = Engine(tmp_path / "engine.log", stays=True)
    drawn: list[list[Sample]] = []
    # the same weights need no sync, others do, and so does a sampler that rested
    for options, weights, rests in (
        (plain, first, False),
        (warm, first, False),
        (warm, other, True),
        (plain, other, False),
    ):
        drawn.append(list(engine.serve(options, weights, SETTING).generate(PROMPTS)))
        if rests:
            assert engine.rest()
    notes = [note.rpartition(" in ")[0] for note in engine.take_notes()]
    engine.close()
    assert notes == ["engine started", "weights synced", "weights synced"]
    assert engine.take_notes() == []
    assert drawn == [
        _fresh(plain, first),
        _fresh(warm, first),
        _fresh(warm, other),
        _fresh(plain, other),
    ]
    assert drawn[0] != drawn[3]


def test_weights_that_the_probe_finds_stale_are_loaded_again_said_and_counted(
    tiny_llama: Path, other: WeightsRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rows = WeightsRef(str(tiny_llama)), [((1, 5, 6), (7, 8))]
    probed = Path(shutil.copytree(other.base, tmp_path / "probed"))
    write_probe(probed, rows, ModelDecoder(other, "float32").score(rows))
    load, planted = ModelDecoder.load, list[str]()

    def load_stale(decoder: ModelDecoder, weights: WeightsRef) -> None:
        is_planted = weights.base == str(probed) and not planted
        planted.extend([weights.base] if is_planted else [])
        load(decoder, first if is_planted else weights)

    monkeypatch.setattr(ModelDecoder, "load", load_stale)
    engine = Engine(tmp_path / "engine.log", stays=True)
    options = Transformers(n=2, max_new_tokens=6)
    for weights in (first, WeightsRef(str(probed)), first):
        engine.serve(options, weights, SETTING)
        write_restarts(tmp_path, engine.take_restarts())
    notes = [note.partition(" s: ") for note in engine.take_notes()]
    assert [note.rpartition(" in ")[0] for note, _, _ in notes] == [
        "engine started",
        "engine started anew",
        "weights synced",
    ]
    assert notes[1][2].startswith("it did not hold the trainer's weights, its log-probs were up to")
    assert notes[1][2].endswith("nats away (allowed 0.0001)")
    assert read_restarts(tmp_path) == 1, "the third change of weights adds nothing"
    engine.close()
