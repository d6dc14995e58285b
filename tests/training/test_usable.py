"""Bad input is refused, or dropped and counted; nothing of it is trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.errors import DataError
from align.models import make_policy
from align.recipe.sections import Policy, Train
from align.records import Pair, Sample, Score, WeightsRef
from align.training.policy import train_policy
from align.training.usable import Usable, pick_usable
from tests.training.material import make_job, make_pairs, make_samples, make_scores

PAIRS = frozenset({"pairs", "ref_logps"})
SCORED = frozenset({"advantages"})
RATIOS = frozenset({"advantages", "sampling_logps"})


def pick(
    needs: frozenset[str],
    samples: list[Sample],
    *,
    scores: list[Score] | None = None,
    pairs: list[Pair] | None = None,
    **section: Any,
) -> tuple[Usable, dict[str, int]]:
    counts: dict[str, int] = {}
    train = Train.model_validate({"objective": {"name": "made"}, "global_batch_size": 4, **section})
    scores = make_scores(samples) if scores is None else scores
    pairs = make_pairs(samples) if pairs is None else pairs
    return pick_usable(train, needs, samples, scores, pairs, counts), counts


def test_pair_of_equal_tokens_is_dropped() -> None:
    samples = make_samples(4)
    same = samples[2].completion_ids
    samples[3] = replace(samples[3], completion_ids=same, loss_mask=(1,) * len(same))
    usable, counts = pick(PAIRS, samples)
    assert counts == {"pairs": 3, "pairs_dropped": 1, "identical": 1, "samples": 6}
    assert samples[2] not in usable.samples


def test_completion_of_no_tokens_is_dropped() -> None:
    samples = make_samples(3)
    samples[1] = replace(samples[1], completion_ids=(), loss_mask=())
    usable, counts = pick(SCORED, samples)
    assert counts == {"without_tokens": 1, "unscored": 0, "samples": 5}
    assert usable.samples == [samples[0], *samples[2:]]


def test_sample_given_twice_counts_once() -> None:
    samples = make_samples(2)
    usable, counts = pick(SCORED, [*samples, samples[0]])
    assert counts == {"repeated": 1, "unscored": 0, "samples": 4}
    assert usable.samples == samples


def test_two_samples_of_one_id_are_refused() -> None:
    samples = make_samples(2)
    samples[1] = replace(samples[1], sample_id=samples[0].sample_id)
    with pytest.raises(DataError, match=r"two samples are called s0-0-0 .*id of its own"):
        pick(SCORED, samples)


@pytest.mark.parametrize("change", [{"loss_mask": (1,)}, {"logps": (-0.5,)}])
def test_columns_of_other_lengths_are_refused(change: dict[str, Any]) -> None:
    samples = make_samples(2)
    samples[0] = replace(samples[0], completion_ids=(5, 6, 7), loss_mask=(1, 1, 1))
    samples[0] = replace(samples[0], **change)
    with pytest.raises(DataError, match=r"sample s0-0-0 has 3 completion tokens.*one a token"):
        pick(SCORED, samples)


def test_scores_that_are_no_numbers_are_missing() -> None:
    samples = make_samples(2)
    scores = make_scores(samples)
    scores[0], scores[3] = replace(scores[0], value=float("nan")), replace(scores[3], value=None)
    usable, counts = pick(SCORED, samples, scores=scores)
    assert counts == {"unscored": 2, "samples": 2}
    assert usable.samples == samples[1:3]


@pytest.mark.parametrize(
    "advantage", [{"baseline": "leave_one_out"}, {"baseline": "group_mean", "normalise": "group"}]
)
def test_prompt_with_one_sample_is_left_out_where_samples_are_compared(
    advantage: dict[str, str],
) -> None:
    samples = make_samples(3)[:-1]
    usable, counts = pick(SCORED, samples, advantage=advantage)
    assert counts == {"unscored": 0, "alone": 1, "samples": 4}
    assert usable.samples == samples[:4]
    assert len(pick(SCORED, samples)[0].samples) == 5


def test_prompts_that_all_have_one_sample_are_refused() -> None:
    """Then the recipe is wrong."""
    samples = make_samples(3, each=1)
    message = (
        rf"baseline: leave_one_out needs at least two samples of a prompt, and 3 of 3 prompts have "
        rf"one .{samples[0].prompt_id}, .*generate.n, or leave train.advantage.baseline out"
    )
    with pytest.raises(DataError, match=message):
        pick(SCORED, samples, advantage={"baseline": "leave_one_out"})


def with_logps(sample: Sample, *values: float) -> Sample:
    ids = tuple(range(4, 4 + len(values)))
    return replace(sample, completion_ids=ids, loss_mask=(1,) * len(ids), logps=values)


def test_infinite_stored_log_probs_are_dropped_and_missing_ones_counted() -> None:
    """NaN says that the engine gave no number for a token: its ratio counts as 1 (ALGORITHMS 0.3,
    point 9). A drawn token of probability 0 is a contradiction.
    """
    nan, inf = float("nan"), float("inf")
    samples = make_samples(2)
    samples[0] = with_logps(samples[0], -1.0, -inf)
    samples[1] = with_logps(samples[1], nan, -1.0, nan)
    samples[2:] = [with_logps(sample, -1.0) for sample in samples[2:]]
    usable, counts = pick(RATIOS, samples, sampling_logps="sampler")
    assert counts == {"infinite_logps": 1, "tokens_without_logps": 2, "unscored": 0, "samples": 3}
    assert usable.samples == samples[1:]
    assert pick(RATIOS, samples)[1] == {"unscored": 0, "samples": 4}


def test_length_limit_that_drops_all_is_refused_with_the_shortest_row() -> None:
    samples = make_samples(2)
    shortest = min(len(s.prompt_ids) + len(s.completion_ids) for s in samples)
    message = f"'too_long': 4.*max_length is 3 and the shortest row has {shortest} tokens"
    with pytest.raises(DataError, match=message):
        pick(SCORED, samples, max_length=3)


def test_no_score_at_all_is_refused() -> None:
    with pytest.raises(DataError, match=r"nothing is left to train on .*'unscored': 4"):
        pick(SCORED, make_samples(2), scores=[])


def test_reference_with_another_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """By name, before any weights are loaded: the reference's folder holds none."""
    config = json.loads((tiny_llama / "config.json").read_text())
    kept = {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers"}
    make_policy(
        Policy(
            config={k: config[k] for k in kept} | {"num_attention_heads": 2},
            tokenizer={"kind": "characters", "alphabet": "0123456789+-*/()=.x"},
        ),
        tmp_path / "other",
        seed=0,
    )
    (tmp_path / "other" / "model.safetensors").unlink()
    section = {"objective": {"name": "dpo"}, "global_batch_size": 2}
    samples, job = make_samples(2), make_job(tiny_llama, tmp_path / "out", section)
    job = replace(job, reference=WeightsRef(str(tmp_path / "other")))
    with pytest.raises(DataError, match=f"policy {tiny_llama} and the reference .*other.*tokeniz"):
        train_policy(job, samples, pairs=make_pairs(samples))


def test_token_beyond_the_vocabulary_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    samples = make_samples(2)
    samples[2] = with_logps(samples[2], -1.0)
    samples[2] = replace(samples[2], completion_ids=(999,))
    section = {"objective": {"name": "dpo"}, "global_batch_size": 2}
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    (model / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"sample s0-1-0 has the token 999, but .* knows \d+"):
        train_policy(make_job(model, tmp_path / "out", section), samples, pairs=make_pairs(samples))


@pytest.mark.parametrize(
    ("rule", "kept", "values", "counted"),
    [
        ("keep", 4, [1.0, 1.0, -1.0, -1.0], {}),
        ("drop", 2, [1.0, -1.0], {"truncated": 2}),
        ("negative", 4, [-1.0, 1.0, -1.0, -1.0], {"truncated_made_negative": 1}),
    ],
)
def test_truncated_samples_follow_the_advantage_rule(
    rule: str, kept: int, values: list[float], counted: dict[str, int]
) -> None:
    """Samples 0 (right) and 2 (wrong) were cut at the limit."""
    samples = make_samples(2)
    samples = [
        replace(sample, finish="length") if place in (0, 2) else sample
        for place, sample in enumerate(samples)
    ]
    scores = [Score(s.sample_id, v) for s, v in zip(samples, [1.0, 1.0, -1.0, -1.0], strict=True)]
    usable, counts = pick(SCORED, samples, scores=scores, advantage={"truncated": rule})
    assert [usable.scores[sample.sample_id] for sample in usable.samples] == values
    assert counts == {"unscored": 0, "samples": kept, **counted}


def test_samples_whose_advantages_are_all_zero_are_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Equal scores under a target share of positives, which makes the score itself the baseline."""
    samples = make_samples(2)
    scores = [Score(sample.sample_id, 1.0) for sample in samples]
    section: dict[str, object] = {"objective": {"name": "topr"}, "global_batch_size": 4}
    section["advantage"] = {"target_positive_share": 0.2}
    with pytest.raises(
        DataError, match="all 4 samples have advantage 0, so topr can learn nothing"
    ):
        train_policy(make_job(tiny_llama, tmp_path, section), samples, scores=scores)
