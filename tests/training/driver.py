"""Runs training tasks one after the other in the process(es) of one `accelerate launch`; one start
serves many checks.

`accelerate launch --config_file X -m tests.training.driver TASKS.json`: a list of `{"kind":
"policy" | "sft" | "reward", "model": folder, "out": folder, "recipe": {...}, "processes": n}`; the
data are made from the task alone. Each task's result is written to `out/result.json` by the first
rank.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from align.inference import head
from align.inference.head import CHUNK_LOGITS
from align.recipe.sections import Recipe
from align.records import Prompt, WeightsRef
from align.training.job import Job, Result
from tests.training.material import fingerprint_of, make_pairs, make_samples, make_scores


def run_task(task: dict[str, Any]) -> Result:
    """One job on made data, in this process."""
    recipe = Recipe.model_validate(task["recipe"])
    model, out = Path(task["model"]), Path(task["out"])
    weights = WeightsRef(str(model), task.get("adapter"))
    section = {"policy": recipe.train, "sft": recipe.sft, "reward": recipe.reward}[task["kind"]]
    assert section is not None
    job = Job(
        recipe,
        section,
        weights,
        out,
        task.get("seed", 0),
        WeightsRef(str(model)),
        {},
        task.get("processes"),
    )
    rows = task.get("rows", 8)
    if task["kind"] == "sft":
        from align.training.sft import train_sft

        return train_sft(job, sums(rows))
    own = fingerprint_of(model) if task["kind"] == "policy" else ""
    samples = make_samples(
        rows, task.get("each", 2), policy=own, temperature=task.get("temperature", 1.0)
    )
    if task["kind"] == "reward":
        from align.training.reward import preference_rows, train_reward

        pairs = preference_rows(samples, make_pairs(samples))
        return train_reward(job, pairs, pairs[:4])
    from align.training.policy import train_policy

    # a chunk of the head is then so many logits, so that a tiny model needs several
    head.CHUNK_LOGITS = task.get("chunk_logits", CHUNK_LOGITS)
    return train_policy(job, samples, scores=make_scores(samples), pairs=make_pairs(samples))


def sums(count: int) -> list[tuple[Prompt, str]]:
    """Additions of one digit each, all different up to 100."""
    return [
        (Prompt.of(f"{i % 10}+{i // 10 % 10}="), str((i % 10 + i // 10 % 10) % 10))
        for i in range(count)
    ]


def halt_in_step(number: int) -> None:
    """Makes the next policy job end in this optimizer step, on every rank, as a kill would."""
    from align.training.policy_trainer import PolicyTrainer

    real = PolicyTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step + 1 == number:
            PolicyTrainer.compute_loss = real
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    PolicyTrainer.compute_loss = compute_loss


def main() -> None:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    for task in json.loads(Path(sys.argv[1]).read_text()):
        # a stage is one process each; here the last task's ZeRO-3 must not divide what the next one
        # loads
        unset_hf_deepspeed_config()
        gc.collect()
        if "halt_in_step" in task:
            halt_in_step(task["halt_in_step"])
            with contextlib.suppress(KeyboardInterrupt):
                run_task(task)
            continue
        result = run_task(task)
        if os.environ.get("RANK", "0") == "0":
            Path(task["out"], "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
