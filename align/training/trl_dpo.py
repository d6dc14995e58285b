"""`engine: trl`: DPO by TRL's own DPOTrainer, from text. The parity oracle of our engine.

TRL tokenises the text again and ends every plain completion with EOS (STYLE part 3, traps 1 and 2),
so the share of pairs whose tokens differ from those that were sampled is measured and reported.
Steps hold the same pairs as in our engine.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import cast

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from align.errors import DataError, RecipeError
from align.inference.logps import TokenRow
from align.models import load_causal, load_tokenizer
from align.objectives.dpo import Dpo
from align.objectives.dpo_options import order, smoothing, temperature
from align.recipe.sections import Train
from align.records import Pair, Sample, derive_seed
from align.registry import build
from align.training.arguments import batch_shape, build_arguments
from align.training.batches import TrainingData, pair_places
from align.training.checkpoints import load_trainable
from align.training.guards import join_launch
from align.training.job import Job, Result
from align.training.plan import plan_steps
from align.training.session import run_training, seed_everything, summarise
from align.training.sft import set_pad_token
from align.training.wrapping import announce_lm_head

logger = logging.getLogger(__name__)

_LOSSES = {
    "sigmoid": "sigmoid",
    "robust": "robust",
    "hinge": "hinge",
    "ipo": "ipo",
    "sigmoid_norm": "sigmoid_norm",
    "exo": "exo_pair",
    "nca": "nca_pair",
    "sppo": "sppo_hard",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "discopop": "discopop",
    "wpo": "sigmoid",
    "ld_dpo": "sigmoid",
}
"""Our name -> TRL's, of losses that both compute alike."""

_OTHERWISE = {
    "cdpo": "its sigmoid ignores label_smoothing",
    "bco": "its bco_pair leaves delta out",
    "rpo": "its likelihood term averages over the tokens of a forward, not of the step",
    "aot": "it sorts the pairs of a forward, not of the step",
    "aot_unpaired": "it sorts the pairs of a forward, not of the step",
}
"""What TRL 1.16 does instead, of losses whose name it has."""

_DIVERGENCES = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js": "js_divergence",
    "alpha": "alpha_divergence",
}


def trl_options(objective: Dpo) -> dict[str, object]:
    """The keys of `DPOConfig` under which TRL computes the objective.

    Raises `RecipeError` where it would compute something else.
    """
    why = _OTHERWISE.get(objective.loss)
    if why is None and objective.loss not in _LOSSES:
        why = "it has no such loss"
    elif objective.ipo_length_norm == "sum":
        why = "its ipo is the token mean"
    elif objective.loss == "wpo" and objective.clamp_weights:
        why = "it does not cap wpo's weights, which is clamp_weights: false"
    if why is not None:
        raise RecipeError(
            f"loss {objective.loss} is not in TRL's DPOTrainer as it is here: {why}",
            key="train.objective",
            remedy="set train.engine: align",
        )
    options: dict[str, object] = {
        "loss_type": [_LOSSES[objective.loss]],
        "beta": objective.beta,
        "label_smoothing": smoothing(objective.loss, objective.label_smoothing),
        "use_weighting": objective.loss == "wpo",
        "ld_alpha": objective.alpha if objective.loss == "ld_dpo" else None,
        "f_divergence_type": _DIVERGENCES[objective.divergence],
    }
    if objective.divergence == "alpha":
        options["f_alpha_divergence_coef"] = order(objective.alpha)
    if objective.loss == "discopop":
        options["discopop_tau"] = temperature(objective.tau)
    return options


def train_dpo_with_trl(job: Job, samples: Sequence[Sample], pairs: Sequence[Pair]) -> Result:
    """Trains `job.policy` on the pairs' text and writes it to `job.out`;
    `metrics["reencoded_differently"]` is a share.

    Raises `RecipeError` for an objective or loss that TRL's DPOTrainer does not have.
    """
    section = job.section
    if not isinstance(section, Train) or job.reference is None:
        raise TypeError("train_dpo_with_trl needs the section train and a reference")
    objective = build("objective", section.objective.model_dump())
    if not isinstance(objective, Dpo):
        raise RecipeError(
            f"{section.objective.name} is not in TRL's DPOTrainer, which has losses of dpo",
            key="train.objective",
            remedy="set train.engine: align",
        )
    loss_options = trl_options(objective)
    if not pairs:
        raise DataError("dpo trains on pairs and there is none; look at the pair step's counts")
    state = join_launch(job.processes)
    seed_everything(job)
    policy = job.policy_section
    tokenizer = load_tokenizer(job.policy.base, trust_remote_code=policy.trust_remote_code)
    set_pad_token(tokenizer)
    shape = batch_shape(job, state.num_processes)
    data = TrainingData(samples, tempered=False, pairs=pair_places(samples, pairs))
    args = dict(section.args)
    steps = plan_steps(
        data.groups(),
        shape.size,
        seed=derive_seed(job.seed, "order"),
        whole=section.shuffle == "groups",
        epochs=float(str(args.pop("num_train_epochs", 1.0))),
        max_steps=int(str(args.pop("max_steps", -1))),
    )
    whole = [step for step in steps if len(step) == shape.size]
    order = [item for step in whole for item in step]
    if not order:
        raise RecipeError(
            f"{shape.size} is more than the {len(pairs)} pairs there are",
            key="train.global_batch_size",
            remedy=f"set it to at most {len(pairs)}, or train.engine: align",
        )
    by_id = {sample.sample_id: sample for sample in samples}
    rows = [_as_text(tokenizer, by_id[pair.chosen], by_id[pair.rejected]) for pair in pairs]
    arguments = build_arguments(
        DPOConfig,
        job,
        shape,
        owned={
            "max_length": section.max_length,
            **loss_options,
            "num_train_epochs": 1.0,
            "max_steps": len(whole),
            "train_sampling_strategy": "sequential",
        },
    )
    is_adapter = job.policy.adapter is not None or policy.peft is not None
    dtype = policy.dtype if is_adapter or arguments.deepspeed_plugin else "float32"
    reference = load_causal(job.reference, dtype=dtype, trust_remote_code=policy.trust_remote_code)
    if isinstance(reference, PeftModel):
        reference = reference.merge_and_unload()
    trainer = DPOTrainer(
        model=load_trainable(
            job.policy, policy, dtype=dtype, seed=derive_seed(job.seed, "adapter")
        ),
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list([rows[item] for item in order]),
        processing_class=tokenizer,
    )
    announce_lm_head(trainer)
    encoded_rows = cast(list[dict[str, list[int]]], list(trainer.train_dataset))
    differing = sum(
        not _is_same(encoded, by_id[pairs[item].chosen], by_id[pairs[item].rejected])
        for encoded, item in zip(encoded_rows, order, strict=True)
    )
    if differing:
        logger.warning(
            "TRL encodes %d of %d pairs to other tokens than were sampled", differing, len(order)
        )
    probe = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in samples]
    restarts = run_training(trainer, job, tokenizer, "policy (TRL)", probe=probe)
    counts = restarts | {
        "pairs": len(pairs),
        "steps": len(whole),
        "items_seen": len(order),
        "partial_batch_pairs_dropped": sum(len(step) for step in steps) - len(order),
        "reencoded_differently": differing,
    }
    metrics = summarise(trainer.state.log_history) | {
        "reencoded_differently": differing / len(order)
    }
    return {"counts": counts, "metrics": metrics}


def _as_text(
    tokenizer: PreTrainedTokenizerBase, chosen: Sample, rejected: Sample
) -> dict[str, str]:
    """Text that TRL encodes to the samples' tokens where that is possible: no BOS that the
    tokenizer would add twice.
    """
    prompt_ids = list(chosen.prompt_ids)
    added = list(tokenizer("")["input_ids"])
    if added and prompt_ids[:1] == [tokenizer.bos_token_id] and added[0] == tokenizer.bos_token_id:
        prompt_ids = prompt_ids[1:]
    prompt = str(tokenizer.decode(prompt_ids))

    def reply(sample: Sample) -> str:
        ids = [*prompt_ids, *sample.completion_ids]
        if ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
        text = str(tokenizer.decode(ids))
        return text[len(prompt) :] if text.startswith(prompt) else sample.text

    return {"prompt": prompt, "chosen": reply(chosen), "rejected": reply(rejected)}


def _is_same(encoded: Mapping[str, list[int]], chosen: Sample, rejected: Sample) -> bool:
    return (
        list(encoded["prompt_ids"]) == list(chosen.prompt_ids)
        and list(encoded["chosen_ids"]) == list(chosen.completion_ids)
        and list(encoded["rejected_ids"]) == list(rejected.completion_ids)
    )
