"""The small twins of the published recipes learn, each within the range that three seeds gave."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from align.data.shards import read_records
from align.records import Pair, Sample, Score
from align.stages.folder import RunFolder

SFT, POLICY = "sft", "iter-000/checkpoint"
LAST = 3
"""Steps over which the end of training is averaged: one of 16 pairs is noisy."""


def curve(run: RunFolder, step: str, name: str) -> list[float]:
    """A logged value of every optimizer step."""
    lines = (run.folder(step) / "log.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def at_the_end(run: RunFolder, step: str, name: str) -> float:
    """Mean of a logged value over the last optimizer steps."""
    return sum(curve(run, step, name)[-LAST:]) / LAST


@pytest.mark.parametrize("family", ["zephyr", "tulu3"])
def test_sft_then_dpo_from_what_it_learned(family: str, run_twin: Callable[..., RunFolder]) -> None:
    """The DPO loss starts at ln 2, where policy and reference are one."""
    run = run_twin(family)
    assert curve(run, SFT, "loss")[0] > 4.2
    assert at_the_end(run, SFT, "loss") < 3.3
    assert curve(run, POLICY, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert at_the_end(run, POLICY, "loss") < 0.35
    assert at_the_end(run, POLICY, "rewards/accuracies") > 0.85


def test_simpo_passes_its_target_margin(run_twin: Callable[..., RunFolder]) -> None:
    """The loss of a pair is ln 2 where the margin of mean log-probs is gamma = 2 * 0.5 = 1; it
    starts above and ends below.
    """
    run = run_twin("simpo")
    assert curve(run, POLICY, "loss")[0] > 1.5
    assert at_the_end(run, POLICY, "loss") < math.log(2)
    assert at_the_end(run, POLICY, "rewards/margins") > 1.0
    assert at_the_end(run, POLICY, "rewards/accuracies") > 0.85


def test_kto_tells_wanted_from_unwanted(run_twin: Callable[..., RunFolder]) -> None:
    """Where policy and reference are one, every u and z0 is 0 and every loss 1 - sigma(0)."""
    run = run_twin("kto")
    assert curve(run, POLICY, "loss")[0] == pytest.approx(0.5, abs=1e-5)
    assert at_the_end(run, POLICY, "loss") < 0.4
    wanted, unwanted = (
        at_the_end(run, POLICY, f"rewards/{side}") for side in ("chosen", "rejected")
    )
    assert wanted > unwanted + 1


def test_programs_that_pass_their_tests_are_preferred(
    run_twin: Callable[..., RunFolder],
) -> None:
    """Ten problems, two programs each that pass and two that do not: four pairs a problem, two
    where one of the four never ends (a factorial that does not stop at 0).
    """
    run = run_twin("code")
    samples = {s.sample_id: s for s in read_records(run.folder("iter-000/samples"), Sample)}
    scores = read_records(run.folder("iter-000/scores"), Score)
    values = {score.sample_id: score.value for score in scores}
    assert all(
        values[name] == (1.0 if s.index < 2 else 0.0) or values[name] is None
        for name, s in samples.items()
    )
    (stopped,) = [score for score in scores if score.value is None]
    assert str(stopped.error).endswith("stopped by time")
    assert "while n != 1" in samples[stopped.sample_id].text
    pairs = read_records(run.folder("iter-000/pairs"), Pair)
    assert len(pairs) == 9 * 4 + 2
    assert {samples[pair.chosen].index for pair in pairs} == {0, 1}
    assert curve(run, POLICY, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert at_the_end(run, POLICY, "rewards/accuracies") > 0.85
