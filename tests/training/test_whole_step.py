"""Objectives that read the whole step see the same numbers however it is divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from align.errors import DataError
from align.inference.logps import completion_logps
from align.inference.packing import Line, TokenRow, single_lines
from align.inference.plain import forward_plain
from align.models import load_causal
from align.records import WeightsRef
from align.registry import build
from align.training.batches import MicroBatch, MicroBatches, TrainingData, pair_places
from align.training.forwards import Schedule
from align.training.mismatched import mismatched_samples, pick_partners
from align.training.policy import train_policy
from align.training.whole_step import WholeStep
from tests.training.material import (
    SGD,
    make_job,
    make_pairs,
    make_samples,
    make_scores,
    relative_gap,
    update_of,
)

RANKED = {"name": "tests.training.whole_objectives.Ranked"}
UNPAIRED = {"name": "tests.training.whole_objectives.Unpaired"}
BCO = {"name": "dpo", "loss": "bco", "beta": 2.0}
KTO = {"name": "kto", "beta": 2.0}


@pytest.mark.parametrize(("objective", "size"), [(RANKED, 8), (BCO, 8), (UNPAIRED, 16), (KTO, 16)])
def test_update_does_not_depend_on_the_micro_batch_split(
    tiny_llama: Path, tmp_path: Path, objective: dict[str, Any], size: int
) -> None:
    """I3: whole, in halves and one by one; eleven pairs (22 completions) in two steps, the last
    smaller.
    """
    samples, updates = make_samples(11), []
    for micro in (size, size // 2, 1):
        out = tmp_path / str(micro)
        section = {
            "objective": objective,
            "global_batch_size": size,
            "micro_batch_size": micro,
            "args": {**SGD, "learning_rate": 0.01},
        }
        result = train_policy(
            make_job(tiny_llama, out, section),
            samples,
            scores=make_scores(samples),
            pairs=make_pairs(samples),
        )
        assert result["counts"]["steps"] == 2
        updates.append(update_of(tiny_llama, out))
    assert updates[0].norm() > 0.01
    assert relative_gap(updates[0], updates[1]) < 1e-5
    assert relative_gap(updates[0], updates[2]) < 1e-5


def one_a_line(rows: Sequence[TokenRow]) -> list[Line]:
    return single_lines(len(rows))


def test_kto_trains_on_completions_one_by_one(tiny_llama: Path, tmp_path: Path) -> None:
    """1 - sigmoid(0) = .5 before the first update; the batch size counts completions, wanted or
    not, and neither needs a partner.
    """
    samples = make_samples(9, each=1) + make_samples(4, each=2, seed=3)
    scores = make_scores(samples)
    section = {
        "objective": {"name": "kto"},
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "args": {"learning_rate": 3e-3, "num_train_epochs": 3, "lr_scheduler_type": "constant"},
    }
    job = make_job(tiny_llama, tmp_path / "out", section)
    result = train_policy(job, samples, scores=scores)
    assert result["counts"] == {"unscored": 0, "samples": 17, "steps": 15, "items_seen": 51}
    metrics = result["metrics"]
    assert metrics["loss/first"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["loss"] < 0.49
    assert metrics["rewards/chosen"] > metrics["rewards/rejected"]
    assert {"log_ratio/reference", "logps/chosen", "logps/rejected", "z0"} <= metrics.keys()


def test_sums_are_those_of_the_steps_samples_each_once(tiny_llama: Path) -> None:
    """Pairs (0, 1), (2, 3) and (0, 3): four rows, of which two are in two pairs. The filler of the
    third rank adds nothing.
    """
    samples = make_samples(2)
    samples = [replace(sample, prompt_id="p") for sample in samples]
    model = load_causal(WeightsRef(str(tiny_llama)))
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in samples]
    logps = completion_logps(model, rows, pad_id=0)
    data = TrainingData(
        samples, tempered=False, pairs=[(0, 1, 0.0), (2, 3, 0.0), (0, 3, 0.0)], ref_logps=logps
    )
    batches = MicroBatches(data, Schedule([[[2], [0], [1], []]], 1), one_a_line, pad_id=0)
    calls = []

    def forward(micro: MicroBatch) -> torch.Tensor:
        calls.append(micro)
        return _logps_of(model, micro)

    whole = WholeStep(batches, build("objective", RANKED), None)
    own = [whole.sums_for(batches[i], 0, forward, Accelerator(cpu=True)) for i in range(4)]
    assert len(calls) == 4
    first = own[0]
    assert first is not None
    expected = [float(values.sum()) for values in logps]
    assert first.logps.tolist() == pytest.approx(expected, abs=1e-5)
    assert first.ref_logps.tolist() == pytest.approx(expected, abs=1e-5)
    assert first.chosen is not None and first.rejected is not None
    assert (first.chosen.tolist(), first.rejected.tolist()) == ([0, 2, 0], [1, 3, 3])
    assert [sums.own.tolist() for sums in own if sums and sums.own is not None] == [
        [2],
        [0],
        [1],
        [2],
    ]


def _logps_of(model: torch.nn.Module, micro: MicroBatch) -> torch.Tensor:
    with torch.no_grad():
        return forward_plain(model, micro.rows, keeps_logits=True).logps[micro.places]


def test_undivided_step_needs_no_extra_forward() -> None:
    samples = make_samples(2)
    data = TrainingData(samples, tempered=False, pairs=pair_places(samples, make_pairs(samples)))
    batches = MicroBatches(data, Schedule([[[0, 1]]], 1), one_a_line, pad_id=0)

    def forward(micro: MicroBatch) -> torch.Tensor:
        raise AssertionError("nothing to forward")

    whole = WholeStep(batches, build("objective", RANKED), None)
    assert whole.sums_for(batches[0], 0, forward, Accelerator(cpu=True)) is None


def test_partners_are_of_other_prompts_and_each_completion_is_used_once() -> None:
    samples = make_samples(5, each=3)[:-1]
    partners = pick_partners(samples, seed=1)
    assert sorted(partners) == list(range(14))
    for sample, partner in zip(samples, partners, strict=True):
        assert samples[partner].prompt_id != sample.prompt_id
    assert partners != pick_partners(samples, seed=2)


def test_partners_where_one_prompt_has_most_completions() -> None:
    """Seven of a prompt and two others': completions of these two are used again and again."""
    samples = make_samples(1, each=7) + make_samples(2, each=1, seed=5)
    partners = pick_partners(samples, seed=0)
    for sample, partner in zip(samples, partners, strict=True):
        assert samples[partner].prompt_id != sample.prompt_id
    assert Counter(partners[:7]).keys() <= {7, 8}


def test_one_prompt_has_no_partners() -> None:
    with pytest.raises(DataError, match="the data have one prompt only"):
        pick_partners(make_samples(1, each=4), seed=0)


def test_mismatched_samples_are_never_longer_than_the_data() -> None:
    """Rows of 4 + 1 and 1 + 3 tokens: the first prompt leaves room for one token of the three."""
    one, other = make_samples(2, each=1)
    one = replace(one, prompt_ids=(1, 4, 5, 6), completion_ids=(7,), loss_mask=(1,))
    other = replace(other, prompt_ids=(1,), completion_ids=(8, 9, 2), loss_mask=(0, 1, 1))
    assert mismatched_samples([one, other], seed=0) == [
        replace(one, completion_ids=(8,), loss_mask=(0,)),
        replace(other, completion_ids=(7,), loss_mask=(1,)),
    ]


def test_mismatched_log_ratio_is_zero_where_policy_and_reference_are_one(tiny_llama: Path) -> None:
    samples = make_samples(4)
    model = load_causal(WeightsRef(str(tiny_llama)))
    made = mismatched_samples(samples, seed=0)
    rows = [TokenRow(sample.prompt_ids, sample.completion_ids) for sample in made]
    refs = completion_logps(model, rows, pad_id=0)
    schedule = Schedule([[[0, 1, 2, 3], [4, 5, 6, 7]]], 1)
    batches = MicroBatches(TrainingData(samples, tempered=False), schedule, one_a_line, pad_id=0)
    data = TrainingData(made, tempered=False, ref_logps=refs)
    mismatched = MicroBatches(data, schedule, one_a_line, pad_id=0)
    whole = WholeStep(batches, build("objective", UNPAIRED), mismatched)
    sums = whole.sums_for(
        batches[0], 0, lambda micro: _logps_of(model, micro), Accelerator(cpu=True)
    )
    assert sums is not None and sums.mismatched is not None
    assert sums.mismatched.tolist() == pytest.approx([0.0] * 8, abs=1e-5)
    assert len(sums.logps) == 0
