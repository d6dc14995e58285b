"""The reward stage's body on encoders, and on samples whose tokens are another model's."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from align.data.shards import write_part
from align.errors import DataError
from align.models import load_scorer, load_tokenizer, make_policy
from align.recipe.load import load_recipe
from align.recipe.sections import Policy
from align.records import Pair, Prompt, Sample, derive_seed
from align.rewards.protocol import Group
from align.rewards.reward_model import RewardModel
from align.stages.folder import RunFolder
from align.stages.steps import plan
from align.stages.training import reward, sft
from align.training.job import Result
from tests.inference.encoder_models import NAMES, make_encoder
from tests.rewards.builders import sample_of


def write_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """The preferred reply is made of nines, the other of zeros."""
    rng = random.Random(seed)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"what is {rng.randint(0, 10**6)}?"}],
            "chosen": [{"role": "assistant", "content": "9" * rng.randint(1, 6)}],
            "rejected": [{"role": "assistant", "content": "0" * rng.randint(1, 6)}],
        }
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(folder: Path, policy: Mapping[str, object], **section: object) -> Result:
    """`reward` of a recipe, in this process; the model lies in `folder / "run" / "reward"`."""
    data = write_pairs(folder / "pairs.jsonl", 96)
    args = {"learning_rate": 3e-3, "num_train_epochs": 4}
    options = {"data": {"path": str(data)}, "global_batch_size": 8, "args": args, **section}
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"policy": policy, "reward": options}))
    run = RunFolder(load_recipe(recipe, environment=True), folder / "run")
    (step,) = plan(run.recipe)
    return reward(run, step)


def gaps_of(model: Path, data: Path, **options: object) -> list[float]:
    """Chosen minus rejected of a file's pairs, as `reward_model` scores them."""
    rows = [json.loads(line) for line in data.open()]
    groups = list[Group]()
    for row in rows:
        prompt = Prompt.of(row["prompt"])
        texts = [row[side][0]["content"] for side in ("chosen", "rejected")]
        groups.append(Group(prompt, tuple(sample_of(prompt, i, t) for i, t in enumerate(texts))))
    scores = RewardModel(path=str(model), **options).open().score(groups)  # pyright: ignore
    return [float(one.value or 0) - float(other.value or 0) for one, other in scores]


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_encoder_learns_a_preference(name: str, tmp_path: Path) -> None:
    """The saved model is scored in the form that it was trained in: its mean margin on the training
    pairs is what the trainer says of them.
    """
    make_encoder(name, tmp_path / "base", headless=True, initializer_range=0.02)
    result = train(tmp_path, {"path": str(tmp_path / "base")}, hold_out=0.0)
    assert result["metrics"]["train/accuracy"] == 1.0
    model = tmp_path / "run" / "reward"
    gaps = gaps_of(model, tmp_path / "pairs.jsonl")
    assert sum(gaps) / 96 == pytest.approx(result["metrics"]["train/margin"], abs=1e-4)
    assert min(gaps_of(model, write_pairs(tmp_path / "new.jsonl", 16, seed=1))) > 0


@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
def test_first_loss_is_that_of_the_formula(name: str, tmp_path: Path) -> None:
    """- mean log sigmoid(r_chosen - r_rejected) of the library's own forward on the two segments,
    with the head that the stage draws (and, of a BERT, the pooler).
    """
    make_encoder(name, tmp_path / "base", headless=True)
    args, data = {"max_steps": 1}, write_pairs(tmp_path / "eight.jsonl", 8)
    policy = {"path": str(tmp_path / "base")}
    result = train(tmp_path, policy, data={"path": str(data)}, args=args, hold_out=0.0)
    seed = derive_seed(0, "reward") % 2**31
    model = load_scorer(tmp_path / "base", seed=derive_seed(seed, "head") % 2**32).eval()
    tokenizer = load_tokenizer(tmp_path / "base")
    losses = list[float]()
    for row in map(json.loads, data.open()):
        texts = [row["prompt"][0]["content"], row["chosen"][0]["content"]]
        with torch.no_grad():
            chosen = model(**tokenizer(*texts, return_tensors="pt")).logits
            texts[1] = row["rejected"][0]["content"]
            rejected = model(**tokenizer(*texts, return_tensors="pt")).logits
        losses.append(-float(torch.nn.functional.logsigmoid(chosen - rejected)))
    assert result["metrics"]["loss/first"] == pytest.approx(sum(losses) / 8, abs=1e-5)


def test_the_template_of_training_is_saved_with_an_encoder(tmp_path: Path) -> None:
    make_encoder("modernbert", tmp_path / "base", headless=True)
    result = train(tmp_path, {"path": str(tmp_path / "base"), "chat_template": "plain"})
    assert result["metrics"]["eval/accuracy"] == 1.0
    model, data = tmp_path / "run" / "reward", tmp_path / "pairs.jsonl"
    assert gaps_of(model, data) == gaps_of(model, data, chat_template="plain")
    assert gaps_of(model, data) != gaps_of(model, data, chat_template="none")


@pytest.mark.parametrize(
    ("name", "targets"),
    [("bert", ["query", "value"]), ("deberta-v2", ["query_proj", "value_proj"])],
)
def test_an_adapter_saves_the_head_and_its_pooler(
    name: str, targets: list[str], tmp_path: Path
) -> None:
    """A pooler that the base lacks is drawn when it is loaded: left out, scores would be another
    model's.
    """
    make_encoder(name, tmp_path / "base", headless=True)
    peft = {"r": 4, "lora_alpha": 8, "target_modules": targets}
    result = train(tmp_path, {"path": str(tmp_path / "base"), "peft": peft}, hold_out=0.0)
    assert result["metrics"]["train/accuracy"] == 1.0
    saved = load_file(tmp_path / "run" / "reward" / "adapter_model.safetensors")
    assert any(key.endswith("classifier.weight") for key in saved)
    assert any(key.endswith("pooler.dense.weight") for key in saved)
    torch.manual_seed(99)
    gaps = gaps_of(tmp_path / "run" / "reward", tmp_path / "pairs.jsonl")
    assert sum(gaps) / 96 == pytest.approx(result["metrics"]["train/margin"], abs=1e-4)


def test_pairs_beyond_an_encoders_context_are_counted(tmp_path: Path) -> None:
    """A prompt of 200 characters does not fit 128 positions, whatever `max_length` allows."""
    make_encoder("bert", tmp_path / "base", headless=True)
    rows = write_pairs(tmp_path / "long.jsonl", 1).read_text().replace("what", "w" * 200)
    data = tmp_path / "both.jsonl"
    data.write_text(rows + write_pairs(tmp_path / "short.jsonl", 32).read_text())
    args = {"max_steps": 1}
    policy = {"path": str(tmp_path / "base")}
    section = {"data": {"path": str(data)}, "args": args, "max_length": 1024, "hold_out": 0.0}
    counts = train(tmp_path, policy, **section)["counts"]
    assert (counts["too_long"], counts["trained_pairs"]) == (1, 32)


def test_an_encoder_reads_replies_of_one_turn(tmp_path: Path) -> None:
    make_encoder("bert", tmp_path / "base", headless=True)
    row = json.loads(write_pairs(tmp_path / "one.jsonl", 1).read_text())
    row["chosen"] += [{"role": "user", "content": "?"}, {"role": "assistant", "content": "9"}]
    data = tmp_path / "turns.jsonl"
    data.write_text(json.dumps(row) + "\n")
    policy = {"path": str(tmp_path / "base")}
    with pytest.raises(DataError, match="put the turns before its last reply into the prompt"):
        train(tmp_path, policy, data={"path": str(data)})


def write_samples(run: RunFolder, tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    """What `reward-data` leaves: two samples a prompt in the writer's tokens, the nines chosen."""
    prompts, samples, pairs = list[Prompt](), list[Sample](), list[Pair]()
    for number in range(count):
        prompt = Prompt.of(f"{number}+{number}=")
        before = tuple(tokenizer.encode(prompt.messages[0]["content"], add_special_tokens=False))
        for index, text in enumerate(("9" * (1 + number % 4), "0" * (1 + number % 3))):
            after = tuple(tokenizer.encode(text, add_special_tokens=False))
            sample = sample_of(prompt, index, text, after)
            samples.append(replace(sample, prompt_ids=before, policy="writer"))
        prompts.append(prompt)
        pairs.append(Pair(samples[-2].sample_id, samples[-1].sample_id, 1.0))
    write_part(run.folder("reward-data/prompts"), 0, prompts, Prompt)
    write_part(run.folder("reward-data/samples"), 0, samples, Sample)
    write_part(run.folder("reward-data/pairs"), 0, pairs, Pair)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_samples_of_another_tokenizer_are_read_as_text(
    kind: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """The reward model begins as another checkpoint than the policy, whose ids mean nothing to it:
    a BERT, or a Llama whose alphabet stands in another order.
    """
    other = tmp_path / "other"
    if kind == "encoder":
        make_encoder("bert", other, headless=True, initializer_range=0.02)
    else:
        letters: dict[str, object] = {"kind": "characters", "alphabet": " .=)(/*-+9876543210"}
        config = json.loads((tiny_llama / "config.json").read_text())
        kept = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers")
        kept += ("num_attention_heads", "max_position_embeddings")
        make_policy(Policy(config={k: config[k] for k in kept}, tokenizer=letters), other, seed=2)
    made = {
        "prompts": {"path": str(tmp_path / "unread")},
        "generate": {"name": "transformers", "n": 2},
        "score": {"name": "length"},
        "pair": {"name": "max_min"},
    }
    args = {"learning_rate": 3e-3, "num_train_epochs": 4}
    section = {"data": made, "init": str(other), "global_batch_size": 8, "args": args}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"policy": {"path": str(tiny_llama)}, "reward": section}))
    run = RunFolder(load_recipe(recipe), tmp_path / "run")
    write_samples(run, load_tokenizer(tiny_llama), 96)
    step = plan(run.recipe)[-1]
    assert (step.name, step.inputs["tokenizer"]) == ("reward", f"path:{tiny_llama}")
    assert reward(run, step)["metrics"]["eval/accuracy"] == 1.0
    prompt = Prompt.of("3+4=")
    group = Group(prompt, tuple(sample_of(prompt, i, text) for i, text in enumerate(("99", "0"))))
    nines, zeros = RewardModel(path=str(tmp_path / "run" / "reward")).open().score([group])[0]
    assert nines.value is not None and zeros.value is not None and nines.value > zeros.value


@pytest.mark.parametrize(
    ("rows", "section", "says"),
    [
        (96, {"hold_out": 0.999999}, "reward.hold_out 0.999999 holds out all 96 pairs, which have"),
        (0, {}, r"reward.data holds no pair to train on \(1 read, 1 identical\); look at its rows"),
    ],
)
def test_why_no_pair_is_left_is_said(
    rows: int, section: dict[str, object], says: str, tiny_llama: Path, tmp_path: Path
) -> None:
    data = write_pairs(tmp_path / "some.jsonl", rows)
    if not rows:
        same = json.loads(write_pairs(tmp_path / "one.jsonl", 1).read_text())
        data.write_text(json.dumps({**same, "rejected": same["chosen"]}) + "\n")
    policy = {"path": str(tiny_llama), "chat_template": "plain"}
    with pytest.raises(DataError, match=says):
        train(tmp_path, policy, data={"path": str(data)}, **section)


def test_the_manifest_counts_what_pairwise_leaves_out(tiny_llama: Path, tmp_path: Path) -> None:
    """One tie of nine preferences, through the SFT stage."""
    rows = [json.loads(line) for line in write_pairs(tmp_path / "a.jsonl", 9).open()]
    rows[0]["tie"] = True
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"name": "pairwise", "of": {"path": str(tmp_path / "b.jsonl")}}
    section = {"data": data, "global_batch_size": 8, "args": {"max_steps": 1}}
    policy = {"path": str(tiny_llama), "chat_template": "none"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"policy": policy, "sft": section}))
    run = RunFolder(load_recipe(recipe), tmp_path / "run")
    (step,) = plan(run.recipe)
    counts = sft(run, step)["counts"]
    assert (counts["left_out_as_tie"], counts["kept"]) == (1, 8)
