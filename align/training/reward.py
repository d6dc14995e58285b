"""Reward stage: TRL's RewardTrainer on our own tokens (Bradley-Terry, ALGORITHMS 2.1)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import Trainer
from trl import RewardConfig

from align.data.fingerprint import local_folder
from align.data.templates import find_template
from align.errors import DataError, NumericsError, RecipeError
from align.inference.encoders import (
    TYPES,
    context_of,
    has_types,
    head_modules,
    read_config,
    segment_types,
)
from align.inference.logps import batches_by_length
from align.inference.packing import TokenRow
from align.models import load_scorer, load_tokenizer, pad_id
from align.recipe.sections import Reward
from align.records import Pair, Sample, derive_seed
from align.training.arguments import batch_shape, build_arguments
from align.training.checkpoints import disable_dropout, with_new_adapter
from align.training.guards import join_launch
from align.training.job import Job, Result
from align.training.session import run_training, seed_everything, summarise
from align.training.sft import set_pad_token
from align.training.soft_labels import FIRSTS, LabelCollator, SoftLabelTrainer
from align.training.wrapping import wrapped_model

logger = logging.getLogger(__name__)

EQUAL = 1e-6
"""Chosen and rejected scores closer than this, relative to the scores' spread, are equal."""
EQUAL_SHARE = 0.5
"""More equal pairs than this and the model is reported as one that does not tell them apart."""
TOKEN_BUDGET = 16_384
PROBE_PAIRS = 256
"""Pairs on which a model is judged where no held-out pairs are given."""


@dataclass(frozen=True)
class PairRow:
    """Two rows of tokens, prompt and completion together, the first preferred."""

    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]
    margin: float = 0.0
    label: float = 1.0
    """P(chosen preferred) to train towards: 0.5 for a tie."""
    firsts: tuple[int, int] = (0, 0)
    """Tokens of each row's first segment, which an encoder may tell from the second."""


def as_sampled(sample: Sample) -> TokenRow:
    """The sample's own tokens."""
    return TokenRow(sample.prompt_ids, sample.completion_ids)


def preference_rows(
    samples: Sequence[Sample],
    pairs: Sequence[Pair],
    *,
    margins: bool = False,
    ties: Collection[Pair] = (),
    read: Callable[[Sample], TokenRow] = as_sampled,
) -> list[PairRow]:
    """Pairs as the tokens that `read` makes of samples; the margin counts in the loss only where
    `margins` says so, and `ties` have the label 0.5.
    """
    by_id = {sample.sample_id: read(sample) for sample in samples}
    return [
        PairRow(
            [*chosen.prompt_ids, *chosen.completion_ids],
            [*rejected.prompt_ids, *rejected.completion_ids],
            pair.margin if margins else 0.0,
            0.5 if pair in ties else 1.0,
            (len(chosen.prompt_ids), len(rejected.prompt_ids)),
        )
        for pair in pairs
        for chosen, rejected in [(by_id[pair.chosen], by_id[pair.rejected])]
    ]


def train_reward(job: Job, rows: Sequence[PairRow], eval_rows: Sequence[PairRow] = ()) -> Result:
    """Trains a scorer from `job.policy` (a causal model gets a new head, drawn from the seed) and
    writes it to `job.out`.

    The result tells accuracy on held-out pairs (else on training pairs) and whether the model
    scores chosen and rejected the same. Every rank calls it.
    """
    section = job.section
    if not isinstance(section, Reward):
        raise TypeError(f"train_reward needs the section reward, not {job.name}")
    state = join_launch(job.processes)
    seed_everything(job)
    policy = job.policy_section
    tokenizer = load_tokenizer(job.policy.base, trust_remote_code=policy.trust_remote_code)
    set_pad_token(tokenizer)
    counts = {"pairs": len(rows)}
    encoder = read_config(local_folder(job.policy.base))
    if encoder is not None and section.init == "policy" and policy.chat_template is not None:
        # saved with the model, so that it is read as it was trained
        own = tokenizer.chat_template
        own = own if isinstance(own, str) else None
        tokenizer.chat_template = find_template(own, policy.chat_template)
    context = None if encoder is None else context_of(encoder, tokenizer)
    longest = min(section.max_length, context or section.max_length)
    kept = _usable(rows, longest, counts)
    shape = batch_shape(job, state.num_processes)
    if len(kept) < shape.size:
        raise RecipeError(
            f"{shape.size} is more than the {len(kept)} pairs there are",
            key="reward.global_batch_size",
            remedy=f"set it to at most {len(kept)}",
        )
    arguments = build_arguments(
        RewardConfig,
        job,
        shape,
        defaults={"num_train_epochs": 1.0},
        # the loss is a mean over each forward's pairs: a smaller last forward would weigh its pairs
        # more
        owned={
            "max_length": section.max_length,
            "dataloader_drop_last": True,
            "remove_unused_columns": False,
        },
    )
    counts["partial_batch_pairs_dropped"] = len(kept) % (shape.micro * shape.world)
    is_adapter = job.policy.adapter is not None or policy.peft is not None
    model = load_scorer(
        job.policy,
        dtype=policy.dtype if is_adapter or arguments.deepspeed_plugin else "float32",
        seed=derive_seed(job.seed, "head") % 2**32,
        trust_remote_code=policy.trust_remote_code,
        is_trainable=True,
    )
    if policy.peft is not None and job.policy.adapter is None:
        # the new head is trained whole and saved beside the adapter
        heads = ["score"] if encoder is None else head_modules(encoder)
        heads += cast("list[str]", policy.peft.get("modules_to_save") or [])
        options = {"task_type": "SEQ_CLS", **policy.peft, "modules_to_save": heads}
        model = with_new_adapter(model, options)
    disable_dropout(model)
    with_margin = any(row.margin for row in kept)
    with_label = any(row.label != 1 for row in kept)
    has_two_types = encoder is not None and has_types(encoder)
    data = [
        {"chosen_ids": list(row.chosen_ids), "rejected_ids": list(row.rejected_ids)}
        | ({"margin": row.margin} if with_margin else {})
        | ({"label": row.label} if with_label else {})
        | ({FIRSTS: list(row.firsts)} if has_two_types else {})
        for row in kept
    ]
    trainer = SoftLabelTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        data_collator=LabelCollator(pad_id(tokenizer)),
    )
    judged = [row for row in eval_rows if _length(row) <= longest] or [
        row for row in kept if row.label > 0.5
    ][:PROBE_PAIRS]
    if not judged:
        raise DataError(
            "every pair is a tie, so nothing says which side is better; look at the columns tie, "
            "label and margin of reward.data"
        )
    counts |= {"eval_pairs": len(judged) if eval_rows else 0}
    judgement: dict[str, float] = {}

    def judge(trained: Trainer) -> None:
        pad, is_held_out = pad_id(tokenizer), bool(eval_rows)
        judgement.update(_judge(trained, judged, pad, has_two_types, held_out=is_held_out))
        if not math.isfinite(judgement["score_spread"]):
            raise NumericsError(
                f"the trained reward model's scores of {len(judged)} pairs are not finite; lower "
                "reward.args.learning_rate, or train in float32"
            )

    counts |= run_training(trainer, job, tokenizer, "reward model", before_save=judge)
    counts |= {"trained_pairs": len(kept), "steps": trainer.state.global_step}
    counts["equal_scores"] = int(judgement["equal_share"] > EQUAL_SHARE)
    if counts["equal_scores"]:
        logger.error(
            "the reward model gives chosen and rejected equal scores on %.0f%% of %d pairs: it "
            "tells them apart no better than chance; look at the data (identical pairs?), the "
            "learning rate and the pad token",
            100 * judgement["equal_share"],
            len(judged),
        )
    return {"counts": counts, "metrics": summarise(trainer.state.log_history) | judgement}


def _length(row: PairRow) -> int:
    return max(len(row.chosen_ids), len(row.rejected_ids))


def _usable(rows: Sequence[PairRow], max_length: int, counts: dict[str, int]) -> list[PairRow]:
    """Pairs to train on; too long and identical ones are dropped and counted (ALGORITHMS 2.1, edge
    cases).
    """
    identical = [row for row in rows if list(row.chosen_ids) == list(row.rejected_ids)]
    kept = [
        row
        for row in rows
        if list(row.chosen_ids) != list(row.rejected_ids) and _length(row) <= max_length
    ]
    counts |= {"identical": len(identical), "too_long": len(rows) - len(identical) - len(kept)}
    if not kept:
        raise DataError(
            f"no pair is left to train on: of {len(rows)} {counts['identical']} are identical and "
            f"{counts['too_long']} longer than {max_length} tokens; look at reward.data and "
            "reward.max_length"
        )
    return kept


@torch.no_grad()
def _judge(
    trainer: Trainer, rows: Sequence[PairRow], pad: int, has_two_types: bool, *, held_out: bool
) -> dict[str, float]:
    """Accuracy, mean margin, spread of the scores and the share of pairs with equal scores. Every
    rank calls it.
    """
    model = wrapped_model(trainer)
    model.eval()
    texts = [list(row.chosen_ids) for row in rows] + [list(row.rejected_ids) for row in rows]
    firsts = [row.firsts[side] for side in (0, 1) for row in rows]
    scores = torch.zeros(len(texts))
    # every rank forwards every batch: under ZeRO-3 the ranks must make the same calls
    for batch in batches_by_length([len(text) for text in texts], TOKEN_BUDGET):
        width = len(texts[batch[0]])
        ids = torch.tensor([texts[i] + [pad] * (width - len(texts[i])) for i in batch])
        mask = torch.tensor([[1] * len(texts[i]) + [0] * (width - len(texts[i])) for i in batch])
        inputs = {"input_ids": ids, "attention_mask": mask}
        if has_two_types:
            inputs[TYPES] = segment_types(mask, [firsts[i] for i in batch])
        device = trainer.args.device
        output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        scores[torch.tensor(batch)] = output.logits.squeeze(-1).float().cpu()
    chosen, rejected = scores.chunk(2)
    spread = float(scores.std(correction=0))
    scale = max(float(scores.abs().max()), 1e-12)
    gaps = chosen - rejected
    prefix = "eval" if held_out else "train"
    result = {
        f"{prefix}/accuracy": float(((gaps > 0).float() + 0.5 * (gaps == 0).float()).mean()),
        f"{prefix}/margin": float(gaps.mean()),
        "score_spread": spread,
        "equal_share": float((gaps.abs() <= EQUAL * scale).float().mean()),
    }
    return gather_object([result])[0]
