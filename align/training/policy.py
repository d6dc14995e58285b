"""Policy stage: trains the policy on stored tokens by the objective that the recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import TrainingArguments

from align.errors import DataError
from align.inference.logps import TokenRow
from align.models import load_tokenizer, pad_id
from align.ops.advantage import estimate_advantages
from align.protocols import Objective
from align.recipe.sections import Train
from align.records import Pair, Sample, Score, derive_seed
from align.registry import build
from align.training.arguments import build_arguments
from align.training.batches import MicroBatches, TrainingData, pair_places
from align.training.checkpoints import disable_dropout, load_trainable
from align.training.fixed_logps import fix_logps
from align.training.guards import join_launch
from align.training.job import Job, Result
from align.training.layout import choose_layout, cut_steps
from align.training.plan import Shape, plan_steps
from align.training.policy_trainer import PolicyTrainer
from align.training.quantization import quantized_config
from align.training.session import run_training, seed_everything, summarise
from align.training.stopping import StopAtLimit
from align.training.usable import Usable, pick_usable
from align.training.vocabulary import check_vocabulary
from align.training.whole_step import WholeStep


def train_policy(
    job: Job, samples: Sequence[Sample], *, scores: Sequence[Score] = (), pairs: Sequence[Pair] = ()
) -> Result:
    """Trains `job.policy` and writes it to `job.out`; returns counts and metrics. Every rank calls
    it.

    `pairs` name samples; pair objectives need them. `scores` give the advantages that policy
    gradients need. Raises `InputError` for data that cannot be used, `LaunchMismatch` and
    `NumericsError` while it runs.
    """
    section = job.section
    if not isinstance(section, Train):
        raise TypeError(f"train_policy needs the section train, not {job.name}")
    if section.engine == "trl":
        from align.training.trl_dpo import train_dpo_with_trl

        return train_dpo_with_trl(job, samples, pairs)
    state = join_launch(job.processes)
    objective = build("objective", section.objective.model_dump())
    quantized_config(job.policy_section)  # refuses what this machine cannot, before any weights
    seed_everything(job)
    counts: dict[str, int] = {}
    usable = pick_usable(section, objective.needs, samples, scores, pairs, counts)
    check_vocabulary(job, usable.samples)
    data, metrics = _prepare(section, objective, usable, counts)
    fixed = fix_logps(job, section, state, objective, data)
    counts |= fixed.counts
    data = replace(
        data,
        ref_logps=fixed.ref_logps,
        sampling_logps=fixed.sampling_logps,
        correction=fixed.correction,
        from_reference=fixed.from_reference,
    )

    args = dict(section.args)
    steps = plan_steps(
        data.groups(),
        section.global_batch_size,
        seed=derive_seed(job.seed, "order"),
        whole=section.shuffle == "groups",
        epochs=float(str(args.pop("num_train_epochs", 1.0))),
        max_steps=int(str(args.pop("max_steps", -1))),
    )
    tokenizer = load_tokenizer(
        job.policy.base, trust_remote_code=job.policy_section.trust_remote_code
    )
    layout, cut = choose_layout(job, section, state, data, pad_id(tokenizer))
    if layout != "groups" and section.layout != "rows":
        counts[f"layout_{layout}"] = 1
    schedule = cut_steps(job, section, state.num_processes, data, steps, cut)
    arguments = build_arguments(
        TrainingArguments,
        job,
        Shape(1, schedule.accumulation, state.num_processes),
        # one item of the data set is one forward of one rank; the steps of all epochs lie in one
        # row
        owned={"per_device_train_batch_size": 1, "max_steps": len(steps), "num_train_epochs": 1.0}
        | {"train_sampling_strategy": "sequential", "remove_unused_columns": False},
    )
    is_adapter = job.policy.adapter is not None or job.policy_section.peft is not None
    dtype = job.policy_section.dtype if is_adapter or arguments.deepspeed_plugin else "float32"
    model = load_trainable(
        job.policy, job.policy_section, dtype=dtype, seed=derive_seed(job.seed, "adapter")
    )
    disable_dropout(model)
    limit = None if section.stop is None else StopAtLimit(section.stop)
    batches = MicroBatches(data, schedule, cut, pad_id(tokenizer))
    mismatched = fixed.mismatched and MicroBatches(
        fixed.mismatched, schedule, cut, pad_id(tokenizer)
    )
    trainer = PolicyTrainer(
        model,
        arguments,
        batches,
        objective,
        tokenizer,
        layout=layout,
        starts_equal=fixed.starts_equal,
        whole_step=WholeStep(batches, objective, mismatched),
        constants=fixed.metrics,
        gradient_norms=section.gradient_norms,
        callbacks=None if limit is None else [limit],
    )
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in data.samples]
    counts |= run_training(trainer, job, tokenizer, "policy", probe=rows)
    done = trainer.state.global_step
    counts |= {"steps": done, "items_seen": sum(len(step) for step in steps[:done])}
    found = summarise(trainer.state.log_history)
    if limit is not None and limit.stopped:
        counts["stopped_early"] = 1
        found |= limit.stopped
    return {"counts": counts, "metrics": metrics | fixed.metrics | found}


def _prepare(
    section: Train, objective: Objective, usable: Usable, counts: dict[str, int]
) -> tuple[TrainingData, dict[str, float]]:
    """The samples in order, with advantages where the objective reads them; fills `counts`."""
    kept, values = usable.samples, usable.scores
    advantages, metrics = None, dict[str, float]()
    if "advantages" in objective.needs:
        option = section.advantage
        found = estimate_advantages(
            [values[sample.sample_id] for sample in kept],
            [sample.prompt_id for sample in kept],
            baseline=option.baseline,
            normalise=option.normalise,
            deviation=option.deviation,
            target_positive_share=option.target_positive_share,
        )
        advantages = found.values.tolist()
        counts |= {f"advantage_{name}": number for name, number in found.counts.items()}
        metrics = {
            "advantage/positive_share": found.positive_share,
            "advantage/effective_positive_share": found.effective_positive_share,
        }
        if found.constant is not None:
            metrics["advantage/constant"] = found.constant
        if not any(advantages):
            raise DataError(
                f"all {len(kept)} samples have advantage 0, so {section.objective.name} can learn "
                "nothing from them: their scores do not differ; look at the score step's counts, "
                "sample more a prompt, or give prompts of another difficulty"
            )
    data = TrainingData(
        kept,
        tempered="sampling_logps" in objective.needs,
        pairs=pair_places(kept, usable.pairs) if "pairs" in objective.needs else None,
        advantages=advantages,
        scores=[values[sample.sample_id] for sample in kept] if values else None,
    )
    return data, metrics
