"""The scalar reward model against a forward written out by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from align.data.chat import encode_pair
from align.errors import SetupError
from align.models import load_tokenizer
from align.records import Prompt, Sample
from align.rewards.protocol import Group
from align.rewards.reward_model import RewardModel
from tests.rewards.builders import sample_of, values_of

TEXTS = ["4", "the answer is 4", "no", "a much longer answer, of many words. " * 3, "5"]


def make_group(folder: Path, question: str = "2+2=", texts: list[str] | None = None) -> Group:
    """Samples whose ids are the tokenizer's."""
    tokenizer = load_tokenizer(folder)
    prompt = Prompt.of(question)
    samples = list[Sample]()
    for index, text in enumerate(texts or TEXTS):
        before, after = encode_pair(tokenizer, prompt.messages, text, None)
        sample = sample_of(prompt, index, text, after)
        samples.append(replace(sample, prompt_ids=tuple(before)))
    return Group(prompt, tuple(samples))


@cache
def load_model(folder: Path) -> LlamaForSequenceClassification:
    return LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def score_by_hand(folder: Path, sample: Sample) -> float:
    """Base model on one unpadded row, head at its last token."""
    model = load_model(folder)
    row = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
    with torch.no_grad():
        hidden = model.model(row, use_cache=False).last_hidden_state[0, -1]
        return float(model.score(hidden)[0])


def test_value_is_the_raw_logit_at_the_last_token(scorer_folder: Path) -> None:
    group = make_group(scorer_folder)
    scorer = RewardModel(path=str(scorer_folder), policy=str(scorer_folder), batch_size=2).open()
    expected = [score_by_hand(scorer_folder, sample) for sample in group.samples]
    assert scorer.scores_ids
    assert values_of(scorer.score([group]))[0] == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == len(TEXTS)


def test_values_do_not_depend_on_batch_or_order(scorer_folder: Path) -> None:
    groups = [make_group(scorer_folder, f"{i}+{i}=") for i in range(3)]
    config = RewardModel(path=str(scorer_folder), policy=str(scorer_folder))
    alone = values_of(replace(config, batch_size=1).open().score(groups))
    for size in (4, 64):
        scorer = replace(config, batch_size=size).open()
        for given, expected in ((groups, alone), (groups[::-1], alone[::-1])):
            for values, row in zip(values_of(scorer.score(given)), expected, strict=True):
                assert values == pytest.approx(row, abs=1e-5)


def test_sampled_ids_are_scored_where_the_tokenizer_is_the_policys(scorer_folder: Path) -> None:
    """A truncated spelling that no rendering gives (no end token, a token torn off) must reach the
    model (I1)."""
    group = make_group(scorer_folder)
    torn = [replace(s, completion_ids=s.completion_ids[:-1]) for s in group.samples]
    group = Group(group.prompt, tuple(torn))
    scorer = RewardModel(path=str(scorer_folder), policy=str(scorer_folder)).open()
    expected = [score_by_hand(scorer_folder, sample) for sample in torn]
    assert values_of(scorer.score([group]))[0] == pytest.approx(expected, abs=1e-5)


def test_text_is_rendered_anew_for_another_tokenizer(scorer_folder: Path, tiny_llama: Path) -> None:
    """The ids of the sample mean nothing to the reward model; its text does, with an end token iff
    it finished."""
    group = make_group(scorer_folder, texts=["4", "the answer is 4"])
    expected = [score_by_hand(scorer_folder, sample) for sample in group.samples]
    foreign = [replace(s, prompt_ids=(1, 2), completion_ids=(3,)) for s in group.samples]
    cut = replace(foreign[1], finish="length")
    unfinished = replace(group.samples[1], completion_ids=group.samples[1].completion_ids[:-1])
    for policy in (str(tiny_llama), None):
        scorer = RewardModel(path=str(scorer_folder), policy=policy).open()
        assert not scorer.scores_ids
        scores = scorer.score([Group(group.prompt, (*foreign, cut))])
        values = [*expected, score_by_hand(scorer_folder, unfinished)]
        assert values_of(scores)[0] == pytest.approx(values, abs=1e-5)


def test_padding_settings_of_a_tokenizer_do_not_make_it_another(
    scorer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(scorer_folder, tmp_path / "policy")
    file = tmp_path / "policy" / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["truncation"] = {
        "direction": "Right",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    file.write_text(json.dumps(settings))
    assert RewardModel(path=str(scorer_folder), policy=str(tmp_path / "policy")).open().scores_ids


def test_too_long_a_sample_fails_and_is_never_cut(scorer_folder: Path) -> None:
    """The shorter row fits exactly, the other is one token longer."""
    group = make_group(scorer_folder, texts=["4", "44"])
    length = len(group.samples[0].prompt_ids) + len(group.samples[0].completion_ids)
    config = RewardModel(path=str(scorer_folder), policy=str(scorer_folder), max_length=length)
    scores = config.open().score([group])[0]
    assert scores[0].value == pytest.approx(
        score_by_hand(scorer_folder, group.samples[0]), abs=1e-5
    )
    assert scores[1].value is None
    assert f"{length + 1} tokens are more than max_length = {length}" in str(scores[1].error)
    beyond = make_group(scorer_folder, texts=["a" * 600])
    whole = replace(config, max_length=None).open().score([beyond])[0][0]
    assert whole.value is None and "max_length = 512" in str(whole.error)


def test_end_token_equal_to_pad_token_does_not_move_the_score(
    scorer_folder: Path, tmp_path: Path
) -> None:
    """transformers' own forward reads the last id that is not the pad id; the attention mask knows
    better."""
    folder = tmp_path / "pad-is-eos"
    shutil.copytree(scorer_folder, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    group = make_group(folder)
    expected = [score_by_hand(folder, sample) for sample in group.samples]
    scorer = RewardModel(path=str(folder), policy=str(folder)).open()
    assert values_of(scorer.score([group]))[0] == pytest.approx(expected, abs=1e-5)


def test_not_finite_output_is_a_failure(scorer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(scorer_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    scores = RewardModel(path=str(folder)).open().score([make_group(folder, texts=["4"])])[0]
    assert scores[0].value is None and scores[0].error == "the model's output is nan"


def test_model_without_a_trained_head_is_refused(writer: Path) -> None:
    """Loading a causal checkpoint as a classifier would score with random numbers."""
    with pytest.raises(SetupError, match=r"no head \(score\.weight\)"):
        RewardModel(path=str(writer)).open()
    with pytest.raises(SetupError, match="no path"):
        RewardModel().open()


def test_head_of_several_labels_is_refused(scorer_folder: Path, tmp_path: Path) -> None:
    """A toxicity classifier, say: which of its labels would be the score?"""
    folder = tmp_path / "classes"
    shutil.copytree(scorer_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"] = tensors["score.weight"].repeat(2, 1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SetupError, match="its head has 2 labels, and a reward model's has one"):
        RewardModel(path=str(folder)).open()
