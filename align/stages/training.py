"""Bodies of the training stages: gather the records that a stage names, hand them to floor 4, keep
what it reports.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from align.data.fingerprint import local_folder
from align.data.shards import read_records
from align.errors import DataError, StageError
from align.inference.packing import TokenRow
from align.recipe.sections import Reward, Section, Source, Window
from align.records import Json, Pair, Prompt, Sample, Score, WeightsRef, derive_seed
from align.registry import build
from align.stages.folder import RunFolder
from align.stages.history import Rows, thin
from align.stages.manifest import Result, write_result
from align.stages.sampling import read_scores
from align.stages.steps import Step
from align.training.job import Job
from align.training.job import Result as Trained

HELD_OUT_PAIRS = 1_000
"""Enough for a standard error of 1.6 points of accuracy."""


def policy(run: RunFolder, step: Step, ranks: int | None = None) -> Trained:
    """One iteration's policy, from its own rows and those of the iterations in its history."""
    from align.training.policy import train_policy

    train = run.recipe.train
    if train is None:
        raise StageError("the recipe has no train section")
    needs = build("objective", train.objective.model_dump()).needs
    rows = _rows(run, step, "", needs)
    if train.data is not None:
        rows = readable_by(needs, rows)
    past = [_rows(run, step, suffix, needs) for suffix in _history(step)]
    counts: dict[str, int] = {}
    if past:
        current, found = rows.items(), sum(one.items() for one in past)
        if isinstance(train.history, Window) and train.history.share is not None:
            seed = derive_seed(run.recipe.run.seed, step.name, "history")
            past = thin(past, current, train.history.share, seed)
        replayed = sum(one.items() for one in past)
        counts = {"rows_of_this_iteration": current, "rows_replayed": replayed}
        counts["rows_left_out_of_history"] = found - replayed
    for one in past:
        rows.samples += one.samples
        rows.scores += one.scores
        rows.pairs += one.pairs
    job = _job(run, step, train, ranks, _samplers(run, step))
    trained = train_policy(job, rows.samples, scores=rows.scores, pairs=rows.pairs)
    return {"counts": {**counts, **trained["counts"]}, "metrics": trained["metrics"]}


def sft(run: RunFolder, step: Step, ranks: int | None = None) -> Trained:
    """Supervised fine-tuning on the recipe's demonstrations."""
    from align.data.convert import to_demonstrations
    from align.data.sources import read_rows
    from align.training.sft import train_sft

    section = run.recipe.sft
    if section is None:
        raise StageError("the recipe has no sft section")
    left_out = Counter[str]()
    rows = read_rows(section.data, seed=run.recipe.run.seed, left_out=left_out)
    cleaned = to_demonstrations(rows)
    trained = train_sft(
        _job(run, step, section, ranks), [(row.prompt, row.completion) for row in cleaned.rows]
    )
    counts = {**left_out, **cleaned.counts, **trained["counts"]}
    return {"counts": counts, "metrics": trained["metrics"]}


def reward(run: RunFolder, step: Step, ranks: int | None = None) -> Trained:
    """The reward model, from pairs that the recipe makes or reads; some prompts' pairs are held
    out.
    """
    from align.training.reward import preference_rows, train_reward

    section = run.recipe.reward
    if section is None:
        raise StageError("the recipe has no reward section")
    counts: dict[str, int] = {}
    if isinstance(section.data, Source):
        rows, prompts = _preferences(run, step, section, section.data, counts)
    else:
        rows = _rows(run, step, "", frozenset({"pairs"}))
        prompts = read_records(run.input_folder(step, "prompts"), Prompt)
    read = _reader(run, step, section, prompts)
    prompt_of = {sample.sample_id: sample.prompt_id for sample in rows.samples}
    limit = round(section.hold_out * (1 << 63))
    held = [p for p in rows.pairs if derive_seed(run.recipe.run.seed, prompt_of[p.chosen]) < limit]
    held = [pair for pair in held if pair not in rows.ties][:HELD_OUT_PAIRS]
    names = {prompt_of[pair.chosen] for pair in held}
    kept = [pair for pair in rows.pairs if prompt_of[pair.chosen] not in names]
    if not kept:
        raise DataError(_why_nothing(section, rows, counts))
    trained = train_reward(
        _job(run, step, section, ranks),
        preference_rows(rows.samples, kept, margins=section.margins, ties=rows.ties, read=read),
        preference_rows(rows.samples, held, read=read),
    )
    counts |= {"held_out": len(held)}
    return {"counts": {**counts, **trained["counts"]}, "metrics": trained["metrics"]}


def _why_nothing(section: Reward, rows: Rows, counts: Mapping[str, int]) -> str:
    """Why no pair is left to train on."""
    if rows.pairs:
        found = f"all {len(rows.pairs)} pairs, which have few prompts"
        return f"reward.hold_out {section.hold_out} holds out {found}; lower it, 0 holds out none"
    said = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    dropped = ", and reward.ties: drop leaves them out" if section.ties == "drop" else ""
    return f"reward.data holds no pair to train on ({said}{dropped}); look at its rows"


def _preferences(
    run: RunFolder, step: Step, section: Reward, source: Source, counts: dict[str, int]
) -> tuple[Rows, list[Prompt]]:
    from align.data.convert import to_preferences
    from align.data.human import import_preferences
    from align.data.sources import read_rows
    from align.inference.encoders import holds_encoder
    from align.models import load_tokenizer

    cleaned = to_preferences(read_rows(source, seed=run.recipe.run.seed))
    counts |= cleaned.counts
    policy, base = run.recipe.policy, run.weights(step.inputs["policy"]).base
    # an encoder reads the text itself, in its own form
    tokenizer = None if holds_encoder(local_folder(base)) else load_tokenizer(base)
    imported = import_preferences(cleaned.rows, tokenizer, policy.chat_template if policy else None)
    counts["ties"] = len(imported.ties)
    pairs = [p for p in imported.pairs if section.ties != "drop" or p not in imported.ties]
    ties = imported.ties if section.ties == "half" else frozenset[Pair]()
    return Rows(list(imported.samples), [], pairs, ties), imported.prompts


def _reader(
    run: RunFolder, step: Step, section: Reward, prompts: Sequence[Prompt]
) -> Callable[[Sample], TokenRow]:
    """How the model that is trained reads a sample: by its tokens where they are its own, else by
    its text, in the form in which `reward_model` scores it.
    """
    from align.inference.encoders import holds_encoder
    from align.rewards.rows import RowEncoder
    from align.training.reward import as_sampled

    weights, policy = run.weights(step.inputs["policy"]), run.recipe.policy
    if "tokenizer" not in step.inputs and not holds_encoder(local_folder(weights.base)):
        return as_sampled
    writer = run.weights(step.inputs["tokenizer"]).base if "tokenizer" in step.inputs else None
    # the recipe's template is that of its policy
    template = policy.chat_template if policy and section.init == "policy" else None
    encoder = RowEncoder(local_folder(weights.base), policy=writer, chat_template=template)
    by_id = {prompt.prompt_id: prompt for prompt in prompts}

    def read(sample: Sample) -> TokenRow:
        row = encoder.encode(by_id[sample.prompt_id], sample)
        if isinstance(row, str):
            raise DataError(f"sample {sample.sample_id} cannot be read by {weights.base}: {row}")
        return row

    return read


def _job(
    run: RunFolder,
    step: Step,
    section: Section,
    ranks: int | None,
    samplers: dict[str, WeightsRef] | None = None,
) -> Job:
    return Job(
        recipe=run.recipe,
        section=section,  # pyright: ignore[reportArgumentType]
        policy=run.weights(step.inputs["policy"]),
        out=run.folder(step.name),
        seed=derive_seed(run.recipe.run.seed, step.name) % 2**31,
        reference=run.weights(step.inputs["reference"]) if "reference" in step.inputs else None,
        samplers=samplers or {},
        processes=ranks,
    )


def _rows(run: RunFolder, step: Step, suffix: str, needs: frozenset[str]) -> Rows:
    """What a reader of `needs` learns from: pairs are all that one of pairs asks of the scores."""
    if "data" in step.inputs:
        folder = run.input_folder(step, "data")
        return Rows(
            read_records(folder / "samples", Sample),
            read_records(folder / "scores", Score),
            read_records(folder / "pairs", Pair),
        )
    rounds = step.steps(f"samples{suffix}")
    samples = [sample for name in rounds for sample in read_records(run.folder(name), Sample)]
    selected, scores = f"selected{suffix}", f"scores{suffix}"
    if selected in step.inputs:
        kept = {score.sample_id for score in read_records(run.input_folder(step, selected), Score)}
        samples = [sample for sample in samples if sample.sample_id in kept]
    pairs = f"pairs{suffix}"
    found = read_records(run.input_folder(step, pairs), Pair) if pairs in step.inputs else []
    if found:
        paired = {name for pair in found for name in (pair.chosen, pair.rejected)}
        samples = [sample for sample in samples if sample.sample_id in paired]
    if len(rounds) > 1:
        prompts = read_records(run.input_folder(step, f"prompts{suffix}"), Prompt)
        kept = {prompt.prompt_id for prompt in prompts}
        samples = [sample for sample in samples if sample.prompt_id in kept]
    if "pairs" in needs:
        return Rows(samples, pairs=found)
    ids = {sample.sample_id for sample in samples}
    scored = [score for name in step.steps(scores) for score in read_scores(run, name)]
    return Rows(samples, [score for score in scored if score.sample_id in ids], found)


def readable_by(needs: frozenset[str], rows: Rows) -> Rows:
    """The human data that an objective of these `needs` trains on.

    One that reads scores takes pairs apart: +1 for the chosen side, -1 for the other (section 4.1
    of the KTO paper); a completion that is both in two pairs has no score. One that reads neither
    pairs nor scores imitates, of preferences the chosen side and of labelled completions the wanted
    ones. Raises `DataError` where the data lack what it reads.
    """
    if "pairs" in needs:
        if not rows.pairs:
            raise DataError(
                "train.data has no preferences, and the objective reads pairs; give rows with "
                "chosen and rejected, or an objective of labelled completions such as kto"
            )
        return rows
    if needs & {"scores", "advantages"}:
        if rows.scores:
            return rows
        chosen = {pair.chosen for pair in rows.pairs}
        rejected = {pair.rejected for pair in rows.pairs}
        if not chosen ^ rejected:
            raise DataError(
                "train.data has no labels, and the objective reads them; give rows with prompt, "
                "completion and label, or with chosen and rejected"
            )
        samples = [one for one in rows.samples if one.sample_id in chosen ^ rejected]
        values = [1.0 if one.sample_id in chosen else -1.0 for one in samples]
        return Rows(samples, [Score(s.sample_id, v) for s, v in zip(samples, values, strict=True)])
    if not rows.pairs and not rows.scores:
        return rows
    wanted = {pair.chosen for pair in rows.pairs}
    wanted |= {score.sample_id for score in rows.scores if (score.value or 0) > 0}
    return Rows([sample for sample in rows.samples if sample.sample_id in wanted])


def _history(step: Step) -> list[str]:
    """Suffixes of the roles that earlier iterations fill, e.g. `:iter-000`."""
    return sorted(
        role.removeprefix("samples")
        for role in step.inputs
        if role.startswith("samples:") and "+" not in role
    )


def _samplers(run: RunFolder, step: Step) -> dict[str, WeightsRef]:
    """Fingerprint -> weights of the policies that wrote the samples."""
    from align.data.fingerprint import fingerprint

    found: dict[str, WeightsRef] = {}
    drawn = {n.removeprefix("step:") for r, n in step.inputs.items() if r.startswith("samples")}
    for source in run.steps():
        if source.name not in drawn or run.manifest(source.name) is None:
            continue
        for name in {value for r, value in source.inputs.items() if r.split(":")[0] == "policy"}:
            weights = run.weights(name)
            found[fingerprint(weights)] = weights
    return found


def keep(run: RunFolder, step: Step, trained: Trained) -> None:
    """Writes what the trainer reports; every rank calls it, the first one writes."""
    if os.environ.get("RANK", "0") != "0":
        return
    metrics: dict[str, Json] = {**trained["metrics"], **chosen_inputs(step)}
    write_result(run.folder(step.name), Result(trained["counts"], metrics))


def chosen_inputs(step: Step) -> dict[str, Json]:
    """What the choices of the loop came to in a policy step: where it began, which weights were its
    reference, which earlier iterations it learned from again. Empty for other steps.
    """
    if step.kind != "policy":
        return {}
    names = {role: name.partition(":")[2] for role, name in step.inputs.items()}
    past = [suffix.removeprefix(":") for suffix in _history(step)]
    return {"init": names["policy"], "reference": names["reference"], "history": past}
