"""Two CPU processes: DDP, ZeRO-2 and ZeRO-3 train what one process trains. One launch a kind; each
task is a check.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from align.data.fingerprint import tensor_hash
from align.inference.logps import TokenRow, completion_logps
from align.inference.probe import read_probe
from align.models import load_causal, load_scorer, make_policy
from align.recipe.sections import Policy
from align.records import WeightsRef
from tests.conftest import ROOT
from tests.training.driver import run_task
from tests.training.material import SGD, relative_gap, update_of

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]

RANKED = {"name": "tests.training.whole_objectives.Ranked"}
UNPAIRED = {"name": "tests.training.whole_objectives.Unpaired"}
LAUNCHES = ("cpu", "zero2", "zero3")


@pytest.fixture(scope="module")
def tied_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose LM head is its embedding."""
    folder = tmp_path_factory.mktemp("tied")
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    make_policy(
        Policy(config=config, tokenizer={"kind": "characters", "alphabet": "0123456789+-*/()=. "}),
        folder,
        seed=0,
    )
    return folder


def tasks(tiny: Path, tied: Path, out: Path, processes: int) -> list[dict[str, Any]]:
    """Each stage that trains, on plain gradient descent, so that updates can be compared as
    gradients.
    """

    def task(
        name: str, kind: str, model: Path, recipe: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        return {
            "kind": kind,
            "model": str(model),
            "out": str(out / name),
            "processes": processes,
            "recipe": {"policy": {"path": "given"}, **recipe},
            **more,
        }

    train = {"global_batch_size": 8, "micro_batch_size": 2, "args": SGD}
    small = train | {"args": {**SGD, "learning_rate": 0.01}}
    peft = {
        "path": "given",
        "peft": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    }
    sft = {"data": {"path": "made"}, "global_batch_size": 8, "micro_batch_size": 2}
    stop = {"at": 2.0, "every": 1, "count": 20, "max_new_tokens": 4}
    return [
        # eleven pairs: the second step has three, so one rank's last forward is filler
        task("dpo", "policy", tied, {"train": {"objective": {"name": "dpo"}, **train}}, rows=11),
        # objectives that read the whole step, the second with completions after others' prompts
        task("ranked", "policy", tied, {"train": {"objective": RANKED, **small}}, rows=11),
        task("unpaired", "policy", tied, {"train": {"objective": UNPAIRED, **small}}, rows=11),
        task(
            "topr",
            "policy",
            tiny,
            {"train": {"objective": {"name": "topr"}, **train}},
            temperature=0.7,
        ),
        # five prompts of four: forwards of at most 60 tokens, fillers, and a head in chunks,
        # as many on the rank that has fewer tokens
        task(
            "groups",
            "policy",
            tied,
            {
                "train": {
                    "objective": {"name": "topr"},
                    "global_batch_size": 12,
                    "micro_batch_tokens": 60,
                    "args": SGD,
                }
            },
            rows=5,
            each=4,
            chunk_logits=200,
        ),
        task(
            "lora",
            "policy",
            tiny,
            {"policy": peft, "train": {"objective": {"name": "dpo"}, **train}},
        ),
        # 28 rows of which 20 are held out: one step that holds all others, in whatever order
        task(
            "sft",
            "sft",
            tied,
            {"sft": {**sft, "stop": stop, "args": {**SGD, "max_steps": 1}}},
            rows=28,
        ),
        task("reward", "reward", tiny, {"reward": {"data": {"path": "made"}, **train}}),
    ]


def resume_tasks(tiny: Path, out: Path) -> list[dict[str, Any]]:
    """One job undisturbed, the same one stopped in step 4 after a checkpoint, and started again;
    one more that waits for other ranks.
    """
    train = {
        "objective": {"name": "dpo"},
        "global_batch_size": 4,
        "micro_batch_size": 1,
        "args": {"learning_rate": 1e-3, "weight_decay": 0.1, "max_steps": 5, "save_steps": 2},
    }
    job = {"kind": "policy", "model": str(tiny), "processes": 2, "recipe": {"train": train}}
    halted = {**job, "out": str(out / "halted")}
    moved = {**job, "out": str(out / "moved")}
    return [
        {**job, "out": str(out / "whole")},
        {**halted, "halt_in_step": 4},
        halted,
        {**moved, "halt_in_step": 4},
    ]


def launch(
    config: str, module: str, argument: Path, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of a test module."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += [
        "--config_file",
        str(ROOT / "accelerate_configs" / f"{config}.yaml"),
        "--num_processes",
        str(processes),
    ]
    command += ["--main_process_port", "0", "-m", module, str(argument)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800
    )


@pytest.fixture(scope="module")
def alone(tiny_llama: Path, tied_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tasks in this process."""
    out = tmp_path_factory.mktemp("alone")
    for task in tasks(tiny_llama, tied_llama, out, 1):
        Path(task["out"]).mkdir()
        Path(task["out"], "result.json").write_text(json.dumps(run_task(task)))
    return out


@pytest.fixture(scope="module")
def launched(
    tiny_llama: Path, tied_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a launch's tasks; each launch runs once."""
    done: dict[str, tuple[Path, str]] = {}

    def get(config: str) -> Path:
        if config not in done:
            out = tmp_path_factory.mktemp(config)
            work = [*tasks(tiny_llama, tied_llama, out, 2), *resume_tasks(tiny_llama, out)]
            (out / "tasks.json").write_text(json.dumps(work))
            finished = launch(config, "tests.training.driver", out / "tasks.json")
            lines = [line for line in finished.stderr.splitlines() if line.startswith("[rank0]")]
            failure = "\n".join(lines) or finished.stderr[-4000:] if finished.returncode else ""
            done[config] = (out, failure)
        out, failure = done[config]
        assert not failure, failure
        return out

    return get


@pytest.fixture(params=LAUNCHES)
def two(request: pytest.FixtureRequest, launched: Callable[[str], Path]) -> Path:
    return launched(request.param)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("dpo", True),
        ("ranked", True),
        ("unpaired", True),
        ("topr", False),
        ("groups", True),
        ("sft", True),
    ],
)
def test_update_is_that_of_one_process(
    two: Path, alone: Path, tiny_llama: Path, tied_llama: Path, name: str, tied: bool
) -> None:
    """I3: rank count and ZeRO stage do not change the gradient by more than 1e-5, the smaller last
    step included.
    """
    start = tied_llama if tied else tiny_llama
    expected, found = update_of(start, alone / name), update_of(start, two / name)
    assert expected.norm() > 0.01
    assert relative_gap(expected, found) < 1e-5


def test_adapter_is_that_of_one_process(two: Path, alone: Path) -> None:
    found, expected = result(two / "lora"), result(alone / "lora")
    assert found["metrics"]["loss/first"] == pytest.approx(0.693147, abs=1e-5)
    assert found["metrics"]["grad_norm"] == pytest.approx(
        expected["metrics"]["grad_norm"], rel=1e-4
    )
    assert relative_gap(update_like(alone / "lora"), update_like(two / "lora")) < 1e-5


def update_like(folder: Path) -> Any:
    """An adapter starts at zero effect; its saved tensors are compared as they are."""
    import torch

    from tests.training.material import tensors_of

    values = tensors_of(folder)
    return torch.cat([values[name].double().flatten() for name in sorted(values)])


def test_metrics_are_gathered_with_global_counts(two: Path, alone: Path) -> None:
    for name in ("dpo", "topr", "groups"):
        one, other = result(alone / name), result(two / name)
        assert one["counts"] == other["counts"]
        assert one["metrics"].keys() == other["metrics"].keys()
        # padding follows from how a step is cut, and so from the number of ranks
        one["metrics"].pop("padding_share")
        for key, value in one["metrics"].items():
            assert other["metrics"][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_sft_samples_the_same_held_out_replies(two: Path, alone: Path) -> None:
    one, other = result(alone / "sft"), result(two / "sft")
    assert one["counts"]["held_out"] == other["counts"]["held_out"] == 20
    key = "stop/exact_match/000001"
    assert one["metrics"][key] == other["metrics"][key]


def test_reward_model_is_that_of_one_process(two: Path, alone: Path) -> None:
    one, other = result(alone / "reward"), result(two / "reward")
    assert other["metrics"]["loss/first"] == pytest.approx(one["metrics"]["loss/first"], abs=1e-5)
    assert other["metrics"]["eval/margin"] == pytest.approx(one["metrics"]["eval/margin"], abs=1e-4)
    score = {
        folder: load_scorer(folder / "reward").state_dict()["score.weight"]
        for folder in (alone, two)
    }
    assert relative_gap(score[alone].double(), score[two].double()) < 1e-5


def test_tied_head_is_saved_once_and_loads(two: Path) -> None:
    for name in ("dpo", "sft"):
        with safe_open(two / name / "model.safetensors", framework="pt") as file:
            assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        model = load_causal(WeightsRef(str(two / name)))
        assert model.lm_head.weight is model.model.embed_tokens.weight
        probe = read_probe(two / name)
        assert probe is not None
        found = completion_logps(model, [TokenRow(*row) for row in probe.rows], pad_id=0)
        for values, expected in zip(found, probe.logps, strict=True):
            assert values.tolist() == pytest.approx(list(expected), abs=1e-4)


def test_resume_after_a_kill_equals_no_stop(two: Path) -> None:
    """I5 on two ranks: the same tensors, bit by bit."""
    assert tensor_hash(two / "halted") == tensor_hash(two / "whole")
    assert result(two / "halted") == result(two / "whole")
    assert not (two / "halted" / ".trainer").exists()


@pytest.mark.parametrize("config", LAUNCHES)
def test_resume_on_other_ranks_equals_no_stop_or_starts_again(
    launched: Callable[[str], Path], tiny_llama: Path, config: str
) -> None:
    """A checkpoint of two ranks goes on with one: as it is, under ZeRO-2 in its universal form;
    ZeRO-3 begins again and says so. The model is that of the undisturbed job.
    """
    two = launched(config)
    job = resume_tasks(tiny_llama, two)[0] | {"out": str(two / "moved"), "processes": 1}
    assert (two / "moved" / ".trainer" / "checkpoint-2").is_dir()
    if config == "cpu":
        counts = run_task(job)["counts"]
    else:
        (two / "moved.json").write_text(json.dumps([job]))
        finished = launch(config, "tests.training.driver", two / "moved.json", processes=1)
        assert finished.returncode == 0, finished.stderr[-4000:]
        counts = result(two / "moved")["counts"]
        warned = "the stage starts again: its checkpoint checkpoint-2 was written by 2 ranks"
        assert (warned in finished.stderr) == (config == "zero3")
    assert counts.get("restarted_other_ranks", 0) == int(config == "zero3")
    whole, moved = (update_of(tiny_llama, two / name) for name in ("whole", "moved"))
    assert relative_gap(whole, moved) < 1e-5


def test_lone_ranks_are_noticed(tmp_path: Path) -> None:
    """STACK.md: without a backend two CPU processes train alone and exit 0. The guard ends both."""
    finished = launch("cpu", "tests.training.lone_ranks", tmp_path)
    assert finished.returncode != 0
    assert "believes to be 1 of 2" in finished.stdout
    assert "2 processes were launched but this one trains with 1" in finished.stdout
