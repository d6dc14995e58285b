"""What does not change while the policy does: log-probs of the reference and of the samplers, made
before the first step in the trainer's own numerics, and what they say about the samplers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accelerate import PartialState
from torch import Tensor

from align.data.fingerprint import fingerprint
from align.errors import DataError, RecipeError
from align.inference.logps import TokenRow
from align.protocols import Objective
from align.recipe.sections import Train
from align.records import WeightsRef
from align.training.batches import TrainingData
from align.training.cached_logps import (
    cached_logps,
    check_scored_is_sampled,
    is_drawn_from,
    samplers_of,
    stored_logps,
)
from align.training.guards import check_all_finite
from align.training.job import Job
from align.training.mismatched import mismatched_samples
from align.training.sampler_mismatch import correct_samples, measure_mismatch
from align.training.start import StartsEqual, loss_at_equality


@dataclass(frozen=True)
class Fixed:
    """By the samples' places."""

    ref_logps: list[Tensor] | None
    sampling_logps: list[Tensor] | None
    correction: list[Tensor] | None
    """Weights of `train.correction`, a token."""
    mismatched: TrainingData | None
    """The same items with completions of other prompts, for objectives that read them."""
    from_reference: list[bool] | None
    """Whether the reference drew the sample, for objectives that read it."""
    starts_equal: StartsEqual
    metrics: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)


def fix_logps(
    job: Job, section: Train, state: PartialState, objective: Objective, data: TrainingData
) -> Fixed:
    """All that the objective and the recipe ask for. Every rank calls it."""
    wants_ref = not objective.needs.isdisjoint({"ref_logps", "mismatched"})
    wants_mu, correction = "sampling_logps" in objective.needs, section.correction
    start = fingerprint(job.policy) if wants_ref or wants_mu or correction else ""
    if wants_ref and wants_mu and any(sample.temperature != 1 for sample in data.samples):
        raise RecipeError(
            "reads both the reference (at temperature 1) and the samplers' log-probs, "
            "so samples must be drawn at 1",
            key="train.objective",
            remedy="set generate.temperature to 1",
        )
    ref_logps = sampling_logps = recomputed = weights = mismatched = from_reference = None
    is_reference, reference = False, ""
    writers: set[str] = set()
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    if wants_ref:
        ref_logps, reference = _reference(job, state, data)
        is_reference = reference == start
        # On-policy pairs need no mu, but where the reference drew them the engines can be compared.
        from_reference = [is_drawn_from(sample, reference) for sample in data.samples]
        drawn = [i for i, is_its in enumerate(from_reference) if is_its]
        metrics = measure_mismatch([data.samples[i] for i in drawn], [ref_logps[i] for i in drawn])
    if wants_mu and section.sampling_logps == "sampler":
        sampling_logps = stored_logps(data.samples, "train.sampling_logps is sampler")
    elif wants_mu or correction is not None:
        recomputed, writers = _samplers(job, state, data, start)
        metrics = measure_mismatch(data.samples, recomputed)
    if wants_mu and recomputed is not None:
        sampling_logps = recomputed
    if correction is not None and recomputed is not None:
        stored = stored_logps(data.samples, "train.correction compares with them")
        weights, counts, metrics = correct_samples(data.samples, recomputed, stored, correction)
    if "mismatched" in objective.needs:
        mismatched = _mismatched(job, state, data, reference)
    if "from_reference" not in objective.needs:
        from_reference = None
    elif not any(from_reference or ()):
        raise DataError(
            f"{section.objective.name} explores away from what the reference writes, and it drew "
            f"none of {len(data.samples)} samples; add a sampler at temperature 1, without top_p "
            "or top_k, of the weights that train.reference names (policy: initial)"
        )
    loss = loss_at_equality(objective) if is_reference else None
    return Fixed(
        ref_logps,
        sampling_logps,
        weights,
        mismatched,
        from_reference,
        StartsEqual(is_reference, sampler=writers == {start}, loss=loss),
        metrics,
        counts,
    )


def _reference(job: Job, state: PartialState, data: TrainingData) -> tuple[list[Tensor], str]:
    """The reference's log-probs at temperature 1, and its fingerprint."""
    if job.reference is None:
        raise RecipeError(
            "needs a reference policy", key="train.objective", remedy="set train.reference"
        )
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in data.samples]
    label = "reference log-probs"
    identity = fingerprint(job.reference)
    values = cached_logps(job, state, job.reference, rows, identity, "reference", label)
    check_all_finite(values, label, _names(data))
    return values, identity


def _samplers(
    job: Job, state: PartialState, data: TrainingData, start: str
) -> tuple[list[Tensor], set[str]]:
    """Log-probs under the weights that wrote each sample, at its own temperature, and who they
    are.
    """
    check_scored_is_sampled(data.samples)
    known: dict[str, WeightsRef] = {**job.samplers, start: job.policy}
    places = samplers_of(data.samples, known)
    values = [Tensor()] * len(data.samples)
    for name, indices in places.items():
        rows = [
            TokenRow(sample.prompt_ids, sample.completion_ids, sample.temperature)
            for sample in (data.samples[index] for index in indices)
        ]
        label = "sampler log-probs"
        own = cached_logps(job, state, known[name], rows, name, f"sampler-{name}", label)
        for index, value in zip(indices, own, strict=True):
            values[index] = value
    check_all_finite(values, "recomputed sampling log-probs", _names(data))
    return values, set(places)


def _mismatched(job: Job, state: PartialState, data: TrainingData, identity: str) -> TrainingData:
    """The same items with completions after the prompts of others, under the reference, whose
    fingerprint is `identity`.
    """
    assert job.reference is not None
    samples = mismatched_samples(data.samples, job.seed)
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in samples]
    label = "reference log-probs of mismatched completions"
    refs = cached_logps(job, state, job.reference, rows, identity, "mismatched", label)
    return TrainingData(samples, tempered=False, pairs=data.pairs, ref_logps=refs)


def _names(data: TrainingData) -> Sequence[str]:
    return [sample.sample_id for sample in data.samples]
