"""Fifty steps of preference training on real pairs: by our engine, and by TRL's own DPOTrainer.

Both start from the same pretrained checkpoint and see the same tokens in the same steps; nothing
of TRL goes through the code that is compared with it. `record_trajectories.py` stores both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from align.data.convert import to_preferences
from align.data.human import Imported, import_preferences
from align.data.rows import Row
from align.data.sources import read_rows
from align.models import load_causal, load_tokenizer
from align.recipe.sections import Source
from align.records import WeightsRef, derive_seed
from align.training.plan import plan_steps
from align.training.policy import train_policy
from tests.training.material import make_job

STORE = Path(__file__).parent / "trajectories"
MODEL = "tinystories-llama-260k"
DATA = "truthfulqa"
PAIRS, STEPS, BATCH, SEED = 200, 50, 4, 0
LONGEST = 64
"""Tokens of a row, so that fifty steps take seconds."""
OPTIMIZER: dict[str, object] = {
    "learning_rate": 2e-4,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_steps": STEPS,
}


@dataclass(frozen=True)
class Loss:
    """One loss in both languages."""

    ours: Mapping[str, object]
    """Options of the recipe's objective."""
    theirs: Mapping[str, object]
    """The same for `trl.DPOConfig`."""


LOSSES = {
    "sigmoid": Loss(
        {"name": "dpo", "loss": "sigmoid", "beta": 0.1}, {"loss_type": ["sigmoid"], "beta": 0.1}
    ),
    "hinge": Loss(
        {"name": "dpo", "loss": "hinge", "beta": 0.1}, {"loss_type": ["hinge"], "beta": 0.1}
    ),
    "ipo": Loss({"name": "dpo", "loss": "ipo", "beta": 0.5}, {"loss_type": ["ipo"], "beta": 0.5}),
    "robust": Loss(
        {"name": "dpo", "loss": "robust", "beta": 0.1, "label_smoothing": 0.1},
        {"loss_type": ["robust"], "beta": 0.1, "label_smoothing": 0.1},
    ),
    "apo_zero": Loss(
        {"name": "dpo", "loss": "apo_zero", "beta": 0.1}, {"loss_type": ["apo_zero"], "beta": 0.1}
    ),
    "sigmoid_norm": Loss(
        {"name": "dpo", "loss": "sigmoid_norm", "beta": 2.0},
        {"loss_type": ["sigmoid_norm"], "beta": 2.0},
    ),
}


def settings(loss: Loss) -> dict[str, object]:
    """All that a stored trajectory depends on, the shared files' content apart; in JSON's types."""
    return {
        "model": MODEL,
        "data": DATA,
        "longest": LONGEST,
        "pairs": PAIRS,
        "steps": STEPS,
        "batch": BATCH,
        "seed": SEED,
        "optimizer": OPTIMIZER,
        "ours": dict(loss.ours),
        "theirs": dict(loss.theirs),
        "trl": version("trl"),
    }


def real_pairs(shared: Path) -> Imported:
    """The first short pair of each of `PAIRS` questions, as plain text: the question, a space,
    the answer.
    """
    rows: dict[str, Row] = {}
    for row in read_rows(Source(path=str(shared / "data" / DATA), shuffle=False), seed=SEED):
        question, chosen, rejected = (
            row.values[name][0]["content"]  # pyright: ignore[reportIndexIssue]
            for name in ("prompt", "chosen", "rejected")
        )
        values = {"prompt": question, "chosen": f" {chosen}", "rejected": f" {rejected}"}
        rows.setdefault(question, Row(values, DATA, row.place))
    tokenizer = load_tokenizer(shared / "models" / MODEL)
    data = import_preferences(
        to_preferences(rows.values()).rows, tokenizer, None, max_length=LONGEST
    )
    assert len(data.pairs) >= PAIRS, (
        f"{DATA} has only {len(data.pairs)} pairs that are short enough"
    )
    return replace(data, pairs=data.pairs[:PAIRS])


def our_losses(shared: Path, out: Path, loss: Loss) -> list[float]:
    """The loss of each of our steps."""
    data = real_pairs(shared)
    section = {"objective": dict(loss.ours), "global_batch_size": BATCH, "args": OPTIMIZER}
    job = make_job(shared / "models" / MODEL, out, section, seed=SEED)
    train_policy(job, data.samples, pairs=data.pairs)
    lines = (out / "log.jsonl").read_text().splitlines()
    return [float(json.loads(line)["loss"]) for line in lines]


def trl_losses(shared: Path, out: Path, loss: Loss) -> list[float]:
    """The loss of each step of TRL's DPOTrainer on the texts of the same pairs.

    Raises `AssertionError` where it makes other tokens of them than we do.
    """
    data, model = real_pairs(shared), WeightsRef(str(shared / "models" / MODEL))
    prompts = {prompt.prompt_id: prompt for prompt in data.prompts}
    samples = {sample.sample_id: sample for sample in data.samples}
    steps = plan_steps(
        [[place] for place in range(len(data.pairs))],
        BATCH,
        seed=derive_seed(SEED, "order"),
        whole=True,
        epochs=1.0,
        max_steps=STEPS,
    )
    pairs = [data.pairs[place] for step in steps for place in step]
    rows = [
        {
            "prompt": prompts[samples[pair.chosen].prompt_id].messages[0]["content"],
            "chosen": samples[pair.chosen].text,
            "rejected": samples[pair.rejected].text,
        }
        for pair in pairs
    ]
    arguments = DPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        max_length=None,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        **OPTIMIZER,  # pyright: ignore[reportArgumentType]
        **loss.theirs,  # pyright: ignore[reportArgumentType]
    )
    trainer = DPOTrainer(
        model=load_causal(model),
        ref_model=load_causal(model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model.base),
    )
    for encoded, pair in zip(trainer.train_dataset, pairs, strict=True):
        chosen, rejected = samples[pair.chosen], samples[pair.rejected]
        assert tuple(encoded["prompt_ids"]) == chosen.prompt_ids
        assert tuple(encoded["chosen_ids"]) == chosen.completion_ids
        assert tuple(encoded["rejected_ids"]) == rejected.completion_ids
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
