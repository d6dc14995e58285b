import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from align.data.fingerprint import tensor_hash
from align.errors import DataError, InputError, NumericsError
from align.inference import head
from align.inference.logps import TokenRow, completion_logps
from align.inference.probe import read_probe
from align.models import load_causal, make_policy
from align.recipe.sections import Policy, Run
from align.records import Pair, Score, WeightsRef
from align.training import policy_trainer
from align.training.policy import train_policy
from tests.training.material import (
    SGD,
    fingerprint_of,
    make_job,
    make_pairs,
    make_samples,
    make_scores,
    relative_gap,
    tensors_of,
    update_of,
)

DPO: dict[str, object] = {"objective": {"name": "dpo", "beta": 0.5}, "global_batch_size": 8}
TOPR: dict[str, object] = {"objective": {"name": "topr"}, "global_batch_size": 8}


def train_dpo(model: Path, out: Path, samples: Any = None, **section: object) -> dict[str, Any]:
    samples = samples or make_samples(11)
    return train_policy(
        make_job(model, out, {**DPO, **section}), samples, pairs=make_pairs(samples)
    )


def test_update_does_not_depend_on_the_micro_batch_split(tiny_llama: Path, tmp_path: Path) -> None:
    """I3: 1 x 8, 4 x 2 and 8 x 1, of eleven pairs in two steps, the last of three: gradient within
    1e-5.
    """
    updates = []
    for micro in (8, 2, 1):
        out = tmp_path / str(micro)
        result = train_dpo(tiny_llama, out, micro_batch_size=micro, args=SGD)
        assert result["counts"] == {
            "pairs": 11,
            "pairs_dropped": 0,
            "samples": 22,
            "steps": 2,
            "items_seen": 11,
        }
        updates.append(update_of(tiny_llama, out))
    assert updates[0].norm() > 0.1
    assert relative_gap(updates[0], updates[1]) < 1e-5
    assert relative_gap(updates[0], updates[2]) < 1e-5


def test_update_does_not_depend_on_layout_or_token_budget(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: six prompts of four completions in two steps; groups, rows, and groups cut at 40 tokens
    with the head in chunks of about four positions.
    """
    samples = make_samples(6, 4, policy=fingerprint_of(tiny_llama), temperature=0.7)
    updates = []
    sections: list[dict[str, object]] = [
        {"layout": "groups"},
        {"layout": "rows"},
        {"layout": "auto", "micro_batch_tokens": 40},
    ]
    for number, section in enumerate(sections):
        if number == 2:
            monkeypatch.setattr(head, "CHUNK_LOGITS", 100)
        out = tmp_path / str(number)
        job = make_job(tiny_llama, out, {**TOPR, "global_batch_size": 12, "args": SGD, **section})
        result = train_policy(job, samples, scores=make_scores(samples))
        assert result["counts"]["steps"] == 2
        assert "layout_rows" not in result["counts"]
        updates.append(update_of(tiny_llama, out))
    assert updates[0].norm() > 0.1
    assert relative_gap(updates[0], updates[1]) < 1e-5
    assert relative_gap(updates[0], updates[2]) < 1e-5


def test_sample_of_several_pairs_counts_in_each(tiny_llama: Path, tmp_path: Path) -> None:
    """All pairs of three samples of four prompts, whole groups a forward or a pair a forward."""
    samples = make_samples(4, 3)
    pairs = [
        Pair(samples[3 * prompt + one].sample_id, samples[3 * prompt + other].sample_id)
        for prompt in range(4)
        for one, other in ((0, 1), (0, 2), (1, 2))
    ]
    updates = []
    for number, micro in enumerate(({}, {"micro_batch_size": 1})):
        out = tmp_path / str(number)
        section = {**DPO, "global_batch_size": 6, "shuffle": "items", "args": SGD, **micro}
        train_policy(make_job(tiny_llama, out, section), samples, pairs=pairs)
        updates.append(update_of(tiny_llama, out))
    assert updates[0].norm() > 0.1
    assert relative_gap(updates[0], updates[1]) < 1e-5


def test_state_space_model_trains_in_rows_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    tokenizer = {"kind": "characters", "alphabet": "0123456789+-*/()=. "}
    make_policy(Policy(config=config, tokenizer=tokenizer), tmp_path / "mamba", seed=0)
    result = train_dpo(tmp_path / "mamba", tmp_path / "out", make_samples(4))
    assert result["counts"]["layout_rows"] == 1
    assert result["metrics"]["loss/first"] == pytest.approx(0.693147, abs=1e-5)
    assert "MambaForCausalLM cannot be forwarded in groups" in caplog.text


def test_update_is_the_gradient_of_the_mean_loss(tiny_llama: Path, tmp_path: Path) -> None:
    """One step of descent at rate 1 changes the weights by minus the gradient of the mean DPO loss.

    With policy = reference it is -(beta / 2) / P times the gradient of sum over pairs of S(chosen)
    - S(rejected).
    """
    samples = make_samples(8)
    train_dpo(tiny_llama, tmp_path / "out", samples, micro_batch_size=2, args=SGD)
    model = load_causal(WeightsRef(str(tiny_llama)))
    total = torch.zeros(())
    for index, sample in enumerate(samples):
        ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        total = total + (1 if index % 2 == 0 else -1) * logps[len(sample.prompt_ids) - 1 :].sum()
    (-(0.5 / 2) / 8 * total).backward()
    expected = torch.cat(
        [
            -p.grad.flatten().double()
            for _, p in sorted(model.named_parameters())
            if p.grad is not None
        ]
    )
    assert relative_gap(expected, update_of(tiny_llama, tmp_path / "out")) < 1e-5


def test_first_loss_is_ln_2_and_metrics_have_the_fields_names(
    tiny_llama: Path, tmp_path: Path
) -> None:
    metrics = train_dpo(tiny_llama, tmp_path / "out")["metrics"]
    assert metrics["loss/first"] == pytest.approx(0.693147, abs=1e-5)
    assert {
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "logps/chosen",
        "log_ratio/reference",
        "loss",
    } <= metrics.keys()


def test_policy_that_is_not_its_reference_is_noticed(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cached reference is off by 0.01 a token while its weights are the policy's own: I2 is
    broken.
    """
    from align.training import fixed_logps

    real = fixed_logps.cached_logps
    monkeypatch.setattr(
        fixed_logps, "cached_logps", lambda *args: [values + 0.01 for values in real(*args)]
    )
    with pytest.raises(NumericsError, match="policy and reference are the same weights"):
        train_dpo(tiny_llama, tmp_path / "out")


def test_nan_loss_names_the_rows(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = policy_trainer.reduce
    monkeypatch.setattr(
        policy_trainer, "reduce", lambda loss, counts: real(loss, counts) * float("nan")
    )
    with pytest.raises(NumericsError, match=r"the loss is nan on the rows s0-\d+-0"):
        train_dpo(tiny_llama, tmp_path / "out")


def test_resume_after_a_kill_equals_no_stop(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: stopped in step 6 with checkpoints after 2 and 4, and a half-written one: the same
    weights, bit by bit.
    """
    section = {"args": {"num_train_epochs": 5, "save_steps": 2, "learning_rate": 1e-3}}
    whole = train_dpo(tiny_llama, tmp_path / "whole", **section)
    assert whole["counts"]["steps"] == 10

    real = policy_trainer.PolicyTrainer.compute_loss

    def stop_in_step_6(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(policy_trainer.PolicyTrainer, "compute_loss", stop_in_step_6)
    with pytest.raises(KeyboardInterrupt):
        train_dpo(tiny_llama, tmp_path / "halted", **section)
    monkeypatch.undo()
    scratch = tmp_path / "halted" / ".trainer"
    assert sorted(path.name for path in scratch.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    (scratch / "checkpoint-5").mkdir()
    (scratch / "checkpoint-5" / "trainer_state.json").write_text("{")
    resumed = train_dpo(tiny_llama, tmp_path / "halted", **section)
    assert tensor_hash(tmp_path / "halted") == tensor_hash(tmp_path / "whole")
    assert resumed["metrics"] == whole["metrics"]
    assert not scratch.exists()


def test_topr_on_policy_ratio_is_one_at_the_samples_temperature(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """mu is recomputed with the weights that the samples name and logits divided by 0.7: step 0
    sees ratio 1.
    """
    samples = make_samples(8, policy=fingerprint_of(tiny_llama), temperature=0.7)
    weights = load_causal(WeightsRef(str(tiny_llama)))
    rows = [TokenRow(s.prompt_ids, s.completion_ids, 0.7) for s in samples]
    stored = completion_logps(weights, rows, pad_id=0)
    samples = [
        replace(s, logps=tuple((values + 0.25).tolist()))
        for s, values in zip(samples, stored, strict=True)
    ]
    job = make_job(tiny_llama, tmp_path / "out", {**TOPR, "args": {"max_steps": 1, **SGD}})
    result = train_policy(job, samples, scores=make_scores(samples))
    assert result["metrics"]["alpha/negatives"] == pytest.approx(1.0, abs=1e-5)
    assert result["metrics"]["log_ratio/token_abs"] == pytest.approx(0.0, abs=1e-5)
    assert result["metrics"]["sampler_mismatch/mean"] == pytest.approx(0.25, abs=1e-5)
    assert result["metrics"]["sampler_mismatch/max"] == pytest.approx(0.25, abs=1e-5)
    assert result["counts"]["advantage_positive"] == 8


def test_stored_sampler_logps_are_used_where_the_recipe_says_so(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """mu is stored as pi times e^0.1 a token, so every token's |log ratio| is 0.1 at step 0."""
    samples = make_samples(8)
    rows = [TokenRow(s.prompt_ids, s.completion_ids) for s in samples]
    stored = completion_logps(load_causal(WeightsRef(str(tiny_llama))), rows, pad_id=0)
    samples = [
        replace(s, logps=tuple((v + 0.1).tolist())) for s, v in zip(samples, stored, strict=True)
    ]
    job = make_job(
        tiny_llama,
        tmp_path / "out",
        {**TOPR, "sampling_logps": "sampler", "args": {"max_steps": 1}},
    )
    result = train_policy(job, samples, scores=make_scores(samples))
    assert result["metrics"]["log_ratio/token_abs"] == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"policy": "someone else"},
            "written by the policy someone else .*train.sampling_logps: sampler",
        ),
        ({"policy": ""}, "written by an unknown policy"),
        ({"top_p": 0.9}, "with top_p 0.9, top_k 0"),
        ({"top_k": 5}, "with top_p 1, top_k 5"),
    ],
)
def test_ratio_to_an_unknown_or_cut_distribution_is_refused(
    tiny_llama: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """I7."""
    samples = make_samples(8, policy=fingerprint_of(tiny_llama))
    samples[3] = replace(samples[3], **change)
    with pytest.raises(InputError, match=message):
        train_policy(
            make_job(tiny_llama, tmp_path / "out", TOPR), samples, scores=make_scores(samples)
        )


def test_samples_that_cannot_be_trained_on_are_counted(tiny_llama: Path, tmp_path: Path) -> None:
    samples = make_samples(8)
    samples[0] = replace(samples[0], completion_ids=(5,) * 60, loss_mask=(1,) * 60)
    samples[2] = replace(samples[2], loss_mask=(0,) * len(samples[2].completion_ids))
    result = train_dpo(tiny_llama, tmp_path / "out", samples, max_length=40, global_batch_size=2)
    assert result["counts"] == {
        "too_long": 1,
        "without_trained_tokens": 1,
        "pairs": 6,
        "pairs_dropped": 2,
        "samples": 12,
        "steps": 3,
        "items_seen": 6,
    }


def test_failed_scores_are_never_numbers(tiny_llama: Path, tmp_path: Path) -> None:
    samples = make_samples(4)
    scores = make_scores(samples)
    scores[1] = Score(samples[1].sample_id, None, error="no")
    section = {"objective": {"name": "reinforce"}, "global_batch_size": 4}
    result = train_policy(make_job(tiny_llama, tmp_path / "out", section), samples, scores=scores)
    assert (result["counts"]["unscored"], result["counts"]["samples"]) == (1, 7)


def test_no_pairs_is_an_error_with_a_cause(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dpo trains on pairs and there is none"):
        train_policy(make_job(tiny_llama, tmp_path / "out", DPO), make_samples(2))


def test_lora_saves_an_adapter_that_continues(tiny_llama: Path, tmp_path: Path) -> None:
    """The base is untouched; a second iteration starts from the first one's adapter with its own
    reference.
    """
    peft = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    samples = make_samples(8)
    before = tensor_hash(tiny_llama)
    job = make_job(
        tiny_llama, tmp_path / "one", {**DPO, "args": {"learning_rate": 1e-2}}, peft=peft
    )
    first = train_policy(job, samples, pairs=make_pairs(samples))
    assert first["metrics"]["loss/first"] == pytest.approx(0.693147, abs=1e-5)
    assert tensor_hash(tiny_llama) == before
    assert (tmp_path / "one" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "one" / "model.safetensors").exists()
    adapter = WeightsRef(str(tiny_llama), str(tmp_path / "one"))
    again = replace(job, policy=adapter, reference=adapter, out=tmp_path / "two")
    second = train_policy(again, samples, pairs=make_pairs(samples))
    assert second["metrics"]["loss/first"] == pytest.approx(0.693147, abs=1e-5)
    gap = [
        (tensors_of(tmp_path / "two")[n] - v).norm()
        for n, v in tensors_of(tmp_path / "one").items()
    ]
    assert sum(gap) > 1e-3


def test_saved_policy_has_probe_rows_with_its_own_log_probs(
    tiny_llama: Path, tmp_path: Path
) -> None:
    train_dpo(tiny_llama, tmp_path / "out")
    probe = read_probe(tmp_path / "out")
    assert probe is not None and len(probe.rows) == 8
    model = load_causal(WeightsRef(str(tmp_path / "out")))
    found = completion_logps(model, [TokenRow(*row) for row in probe.rows], pad_id=0)
    for values, expected in zip(found, probe.logps, strict=True):
        assert values.tolist() == pytest.approx(list(expected), abs=1e-5)


def test_same_job_twice_gives_the_same_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_dpo(tiny_llama, tmp_path / name)
    assert tensor_hash(tmp_path / "one") == tensor_hash(tmp_path / "two")


def test_bfloat16_is_trained_in_float32_and_saved_as_bfloat16(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Master weights stay float32 in training; what is saved is what a sampler will load."""
    samples = make_samples(8)
    job = make_job(tiny_llama, tmp_path / "out", DPO, dtype="bfloat16")
    result = train_policy(job, samples, pairs=make_pairs(samples))
    assert result["metrics"]["loss/first"] == pytest.approx(0.693147, abs=2e-3)
    assert {value.dtype for value in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_report_to_tensorboard_writes_into_the_step(tiny_llama: Path, tmp_path: Path) -> None:
    samples = make_samples(4)
    job = make_job(tiny_llama, tmp_path / "out", {**DPO, "global_batch_size": 4})
    recipe = job.recipe.model_copy(update={"run": Run(report_to=["tensorboard"])})
    train_policy(replace(job, recipe=recipe), samples, pairs=make_pairs(samples))
    assert len(list((tmp_path / "out" / "tensorboard").rglob("events.out.*"))) == 1
