"""SFT stage: TRL's SFTTrainer on our own tokens, so that only replies carry loss and nothing is
re-encoded.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from align.data.chat import encode, encode_headless, encode_prompt, end_ids
from align.errors import DataError, RecipeError
from align.inference.logps import TokenRow
from align.models import load_causal, load_tokenizer, pad_id, stop_ids
from align.recipe.sections import Sft, Stop
from align.records import Prompt, Turn, derive_seed
from align.training.arguments import batch_shape, build_arguments
from align.training.checkpoints import load_trainable
from align.training.guards import join_launch
from align.training.job import Job, Result
from align.training.session import run_training, seed_everything, summarise
from align.training.sft_stop import HeldOut, StopByScore
from align.training.wrapping import announce_lm_head

Demonstration = tuple[Prompt, "str | Sequence[Turn]"]
"""A prompt and the reply to learn: one string, or turns of which the assistant's carry loss."""

IGNORED = -100
"""Label of a token that carries no loss."""
LEAK_TOLERANCE = 1e-3
"""Largest difference of a packed document's logits from its own; a leak is of the order of the
logits.
"""


def train_sft(job: Job, rows: Sequence[Demonstration]) -> Result:
    """Trains `job.policy` on demonstrations and writes it to `job.out`; returns counts and metrics.

    With `sft.stop`, some rows are held out and decide when to stop. Every rank calls it.
    """
    section = job.section
    if not isinstance(section, Sft):
        raise TypeError(f"train_sft needs the section sft, not {job.name}")
    state = join_launch(job.processes)
    seed_everything(job)
    policy = job.policy_section
    tokenizer = load_tokenizer(job.policy.base, trust_remote_code=policy.trust_remote_code)
    set_pad_token(tokenizer)
    counts = {"rows": len(rows)}
    kept, held_out = _hold_out(rows, section.stop, tokenizer, policy.chat_template, job.seed)
    encoded = _encode(kept, tokenizer, policy.chat_template, section, counts)
    shape = batch_shape(job, state.num_processes)
    if state.num_processes > 1 and len(encoded) < shape.size:
        raise RecipeError(
            f"{shape.size} is more than the {len(encoded)} rows there are, which "
            f"{state.num_processes} processes cannot share evenly",
            key="sft.global_batch_size",
            remedy=f"set it to at most {len(encoded)}",
        )
    if section.args.get("packing"):
        _check_packing(job, section, encoded, tokenizer)
    arguments = build_arguments(
        SFTConfig,
        job,
        shape,
        owned={
            "max_length": section.max_length,
            # ranks would otherwise be filled up with repeated rows at the end of an epoch
            "dataloader_drop_last": state.num_processes > 1,
        },
    )
    counts["partial_batch_rows_dropped"] = (
        len(encoded) % (shape.micro * shape.world)
        if state.num_processes > 1 and not arguments.packing
        else 0
    )
    is_adapter = job.policy.adapter is not None or policy.peft is not None
    dtype = policy.dtype if is_adapter or arguments.deepspeed_plugin else "float32"
    trainer = SFTTrainer(
        model=load_trainable(
            job.policy, policy, dtype=dtype, seed=derive_seed(job.seed, "adapter")
        ),
        args=arguments,
        train_dataset=Dataset.from_list(encoded),
        processing_class=tokenizer,
    )
    announce_lm_head(trainer)
    callback = None
    if section.stop is not None:
        ends = {*stop_ids(job.policy.base), *end_ids(tokenizer, policy.chat_template)}
        callback = StopByScore(
            trainer,
            tokenizer,
            held_out,
            section.stop,
            pad_id=pad_id(tokenizer),
            stop_ids=sorted(ends),
            seed=job.seed,
        )
        trainer.add_callback(callback)
    counts |= run_training(trainer, job, tokenizer, "sft", probe=[_as_row(row) for row in encoded])
    counts |= {
        "trained_rows": len(encoded),
        "steps": trainer.state.global_step,
        "held_out": len(held_out),
    }
    metrics = summarise(trainer.state.log_history)
    if callback is not None:
        curve = callback.curve()
        metrics |= {f"{callback.name}/{step:06d}": score for step, score in curve.items()}
        counts["stopped_by_score"] = int(bool(curve) and max(curve.values()) >= callback.target)
    return {"counts": counts, "metrics": metrics}


def _as_row(row: Mapping[str, list[int]]) -> TokenRow:
    """The row cut where loss begins."""
    begin = next(index for index, label in enumerate(row["labels"]) if label != IGNORED)
    return TokenRow(row["input_ids"][:begin], row["input_ids"][begin:])


def set_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives the tokenizer a pad token for the trainer's own batches where it has none.

    pad = eos is harmless here: labels and attention masks are built from lengths, never from ids.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id(tokenizer))


def _hold_out(
    rows: Sequence[Demonstration],
    stop: Stop | None,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    seed: int,
) -> tuple[list[Demonstration], list[HeldOut]]:
    """The rows to train on and those held out, drawn by the seed. A prompt that is held out is
    never trained on.
    """
    if stop is None:
        return list(rows), []
    if stop.score != "exact_match":
        raise RecipeError(
            f"{stop.score} is not known", key="sft.stop.score", remedy="use exact_match"
        )
    if stop.count >= len(rows):
        raise RecipeError(
            f"{stop.count} rows cannot be held out of {len(rows)}",
            key="sft.stop.count",
            remedy="lower it",
        )
    chosen = random.Random(derive_seed(seed, "held out")).sample(range(len(rows)), stop.count)
    held_out = [
        HeldOut(
            encode_prompt(tokenizer, rows[i][0].messages, chat_template),
            _only_text(rows[i][1], "sft.stop"),
        )
        for i in chosen
    ]
    prompts = {rows[i][0].prompt_id for i in chosen}
    return [row for row in rows if row[0].prompt_id not in prompts], held_out


def _only_text(completion: str | Sequence[Turn], where: str) -> str:
    """The reply, which must be one assistant turn of text for what the recipe asks at `where`."""
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or not isinstance(completion[0].get("content"), str):
        raise DataError(
            f"{where} takes replies of one assistant turn of text, and a row has others"
        )
    return str(completion[0]["content"])


def _encode(
    rows: Sequence[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    section: Sft,
    counts: dict[str, int],
) -> list[dict[str, list[int]]]:
    """`input_ids` and `labels` of the rows that can be trained on; the others are counted."""
    counts |= {"too_long": 0, "without_loss": 0, "seam_merges": 0}
    encoded: list[dict[str, list[int]]] = []
    for prompt, completion in rows:
        if section.add_generation_prompt:
            both = encode(tokenizer, prompt.messages, completion, chat_template)
        else:
            reply = _only_text(completion, "sft.add_generation_prompt: false")
            both = encode_headless(tokenizer, prompt.messages, reply, chat_template)
        ids = [*both.prompt_ids, *both.completion_ids]
        counts["seam_merges"] += both.seam_merges
        # a row cut short would teach never to stop (ALGORITHMS 1.4)
        if len(ids) > section.max_length:
            counts["too_long"] += 1
        elif not any(both.loss_mask):
            counts["without_loss"] += 1
        else:
            labels = [IGNORED] * len(both.prompt_ids)
            labels += [
                token if flag else IGNORED
                for token, flag in zip(both.completion_ids, both.loss_mask, strict=True)
            ]
            encoded.append({"input_ids": ids, "labels": labels})
    if not encoded:
        raise DataError(
            f"no demonstration is left to train on: {counts}; look at sft.max_length and sft.data"
        )
    return encoded


@torch.no_grad()
def _check_packing(
    job: Job,
    section: Sft,
    encoded: Sequence[Mapping[str, list[int]]],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raises `RecipeError` where packed documents would see each other with this model and
    attention (ALGORITHMS 1.2).

    Two documents are forwarded alone and packed as TRL packs them; the second's logits must not
    change.
    """
    if section.args.get("packing_strategy", "bfd") == "wrapped":
        raise RecipeError(
            "wrapped lets documents see each other",
            key="sft.args.packing_strategy",
            remedy="use bfd",
        )
    documents = [encoded[0], encoded[-1]]
    collator = DataCollatorForLanguageModeling(pad_id(tokenizer), padding_free=True)
    packed = {k: v for k, v in collator([dict(row) for row in documents]).items() if k != "labels"}
    model = load_causal(
        job.policy, dtype="float32", trust_remote_code=job.policy_section.trust_remote_code
    )
    together = model(**packed, use_cache=False).logits[0, -len(documents[1]["input_ids"]) :]
    alone = model(torch.tensor([documents[1]["input_ids"]]), use_cache=False).logits[0]
    gap = float((together - alone).abs().max())
    if not gap <= LEAK_TOLERANCE * max(1.0, float(alone.abs().max())):
        name = model.config._attn_implementation
        raise RecipeError(
            f"packing lets documents see each other with this model and its {name} attention "
            f"(logits move by {gap:.2g})",
            key="sft.args.packing",
            remedy="leave it out",
        )
