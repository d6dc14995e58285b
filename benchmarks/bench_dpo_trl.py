"""DPO steps of our policy engine against TRL's DPOTrainer: time, memory, and where ours goes.

    python benchmarks/bench_dpo_trl.py
    python benchmarks/bench_dpo_trl.py --shapes 512/64 --repeats 5 --save dpo_against_trl

A shape is prompt tokens / completion tokens. A Llama of 10 million parameters trains in float32 on
the same pairs in the same steps, eight a step, with the reference's log-probs computed before the
first step on both sides. `groups` and `rows` are our two layouts. The engines take turns; times lie
between the ends of consecutive optimizer steps, so nothing that happens once a job counts. What
counts is each engine's quickest step, in wall seconds and in the process's own CPU seconds: other
processes can only make steps slower. Memory is the peak above what the process held before the job.
Losses that differ void the comparison.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from recording import machine, record
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from align.models import load_causal, load_tokenizer, make_policy
from align.recipe.sections import Policy, Recipe
from align.records import Pair, Prompt, Sample, WeightsRef, derive_seed
from align.training.job import Job
from align.training.plan import plan_steps
from align.training.policy import train_policy

SHAPES = ("256/64", "32/32")
PAIRS_A_STEP = 8
VOCABULARY, HIDDEN, INTERMEDIATE = 8_192, 320, 864
ALPHABET = "".join(chr(0x4E00 + place) for place in range(VOCABULARY - 4))
"""One character a token, so that TRL makes the very same tokens of a text."""
OPTIMIZER: dict[str, object] = {"learning_rate": 1e-4, "lr_scheduler_type": "constant"}
AGREE = 1e-4


@dataclass
class Meter:
    """What is seen at the ends of optimizer steps."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_megabytes: float = 0.0

    def steps(self, clock: str) -> list[float]:
        """Seconds between consecutive steps."""
        moments = self.wall if clock == "wall" else self.cpu
        return [later - earlier for earlier, later in pairwise(moments)]


@dataclass(frozen=True)
class Data:
    """The same pairs as our records and as TRL's texts."""

    samples: list[Sample]
    pairs: list[Pair]
    rows: list[dict[str, str]]


Engine = Callable[[Path, Data, Path], list[float]]
"""Trains the model of a folder, writes to another, returns the loss of each step."""


def main() -> int:
    args = _parse()
    disable_progress_bar()
    lines = [f"`{' '.join(['python', *sys.argv])}`", ""]
    columns = ("prompt / completion", "engine", "wall s a step", "CPU s a step")
    columns += ("wall, TRL : this", "CPU, TRL : this", "peak MB", "largest difference of a loss")
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_policy(_policy(), model, seed=0)
        for shape in args.shapes:
            data = _make_pairs(model, shape, args.steps)
            lines += _compare(model, data, shape, args.repeats, Path(folder))
            print("\n".join(lines[-3:]), flush=True)
        data = _make_pairs(model, args.shapes[0], args.steps)
        lines += ["", f"Where a step of `groups` goes at {args.shapes[0]}:", ""]
        lines += _profile(model, data, Path(folder))
    how = f"{args.repeats} jobs of {args.steps} steps each, in turns"
    lines += ["", f"{how}; {torch.get_num_threads()} threads on {machine()}"]
    record(lines, args.save)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="prompt/completion tokens")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a job")
    parser.add_argument("--repeats", type=int, default=3, help="jobs of each engine, in turns")
    parser.add_argument("--save", metavar="NAME", help="also write benchmarks/results/NAME.md")
    return parser.parse_args()


def _policy() -> Policy:
    return Policy(
        config={
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": 6,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        tokenizer={"kind": "characters", "alphabet": ALPHABET},
    )


def _make_pairs(model: Path, shape: str, steps: int) -> Data:
    """Random texts, up to a fifth shorter than the shape says, with an end token like TRL's."""
    tokenizer = load_tokenizer(model)
    longest, rng = [int(number) for number in shape.split("/")], random.Random(0)

    def draw(most: int) -> str:
        return "".join(rng.choices(ALPHABET, k=rng.randint(most - most // 5, most)))

    samples: list[Sample] = []
    pairs: list[Pair] = []
    rows: list[dict[str, str]] = []
    for _ in range(steps * PAIRS_A_STEP):
        prompt, sides = draw(longest[0]), [draw(longest[1] - 1) for _ in range(2)]
        name = Prompt.of(prompt).prompt_id
        for index, side in enumerate(sides):
            ids = (*tokenizer(side)["input_ids"], tokenizer.eos_token_id)
            samples.append(
                Sample(
                    sample_id=f"{name}-{index}",
                    prompt_id=name,
                    index=index,
                    policy="",
                    prompt_ids=tuple(tokenizer(prompt)["input_ids"]),
                    completion_ids=ids,
                    loss_mask=(1,) * len(ids),
                    logps=None,
                    text=side,
                    finish="stop",
                )
            )
        pairs.append(Pair(f"{name}-0", f"{name}-1"))
        rows.append({"prompt": prompt, "chosen": sides[0], "rejected": sides[1]})
    return Data(samples, pairs, rows)


def _ours(layout: str) -> Engine:
    def train(model: Path, data: Data, out: Path) -> list[float]:
        section = {
            "objective": {"name": "dpo", "beta": 0.1},
            "global_batch_size": PAIRS_A_STEP,
            "layout": layout,
            "args": OPTIMIZER,
        }
        recipe = Recipe.model_validate({"policy": {"path": str(model)}, "train": section})
        assert recipe.train is not None
        weights = WeightsRef(str(model))
        train_policy(
            Job(recipe, recipe.train, weights, out, 0, reference=weights),
            data.samples,
            pairs=data.pairs,
        )
        lines = (out / "log.jsonl").read_text().splitlines()
        return [float(json.loads(line)["loss"]) for line in lines]

    return train


def _trl(model: Path, data: Data, out: Path) -> list[float]:
    steps = plan_steps(
        [[place] for place in range(len(data.pairs))],
        PAIRS_A_STEP,
        seed=derive_seed(0, "order"),
        whole=True,
        epochs=1.0,
    )
    arguments = DPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=PAIRS_A_STEP,
        train_sampling_strategy="sequential",
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        max_length=None,
        bf16=False,
        use_cpu=True,
        loss_type=["sigmoid"],
        beta=0.1,
        num_train_epochs=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **OPTIMIZER,  # pyright: ignore[reportArgumentType]
    )
    trainer = DPOTrainer(
        model=load_causal(WeightsRef(str(model))),
        args=arguments,
        train_dataset=Dataset.from_list([data.rows[item] for step in steps for item in step]),
        processing_class=load_tokenizer(model),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _compare(model: Path, data: Data, shape: str, repeats: int, folder: Path) -> list[str]:
    engines: dict[str, Engine] = {"TRL": _trl, "rows": _ours("rows"), "groups": _ours("groups")}
    meters: dict[str, list[Meter]] = {name: [] for name in engines}
    losses: dict[str, list[float]] = {}
    for turn in range(repeats):
        for name, engine in engines.items():
            # ours switches this on, and it would slow TRL down
            torch.use_deterministic_algorithms(False)
            with _metered() as meter:
                out = folder / f"{shape.replace('/', '-')}-{name}-{turn}"
                losses[name] = engine(model, data, out)
            meters[name].append(meter)
    seconds = {
        name: [
            min(chain.from_iterable(meter.steps(clock) for meter in found))
            for clock in ("wall", "cpu")
        ]
        for name, found in meters.items()
    }
    lines = []
    for name in engines:
        gap = max(abs(a - b) for a, b in zip(losses["TRL"], losses[name], strict=True))
        if gap > AGREE:
            raise SystemExit(f"losses of {name} and TRL differ by {gap:.1e}: nothing to compare")
        ratios = [trl / own for trl, own in zip(seconds["TRL"], seconds[name], strict=True)]
        peak = min(meter.peak_megabytes for meter in meters[name])
        cells = [shape.replace("/", " / "), name, *(f"{value:.2f}" for value in seconds[name])]
        cells += [*(f"{ratio:.2f}" for ratio in ratios), f"{peak:.0f}", f"{gap:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@contextmanager
def _metered() -> Iterator[Meter]:
    """Meters the job inside: from the end of its first optimizer step on."""
    meter = Meter()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    rest = _status("VmRSS")

    def at_step(*_: object) -> None:
        if not meter.wall:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        meter.wall.append(time.perf_counter())
        meter.cpu.append(time.process_time())
        meter.peak_megabytes = (_status("VmHWM") - rest) / 1024

    hook = register_optimizer_step_post_hook(at_step)
    try:
        yield meter
    finally:
        hook.remove()


def _status(name: str) -> int:
    """Kilobytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _profile(model: Path, data: Data, folder: Path) -> list[str]:
    """Shares of CPU time by what is computed, from the end of the first step to the last's."""
    profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    seen = 0

    def at_step(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            profiler.start()
        elif seen == len(data.pairs) // PAIRS_A_STEP:
            profiler.stop()

    hook = register_optimizer_step_post_hook(at_step)
    try:
        _ours("groups")(model, data, folder / "profiled")
    finally:
        hook.remove()
    times: dict[str, float] = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        part = _part(event.key, event.input_shapes)
        times[part] = times.get(part, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    lines = ["| part | share |", "|---|---|"]
    for part, spent in sorted(times.items(), key=lambda item: -item[1]):
        lines.append(f"| {part} | {spent / total:.0%} |")
    return lines


def _part(key: str, shapes: Sequence[Sequence[int]]) -> str:
    """What an operation belongs to, by its name and the sizes of its operands."""
    sizes = {size for shape in shapes if isinstance(shape, list) for size in shape}
    if key.startswith("Optimizer") or "_foreach" in key or "adamw" in key.lower():
        return "optimizer"
    if "attention" in key:
        return "attention"
    if VOCABULARY in sizes:
        return "LM head and its softmax"
    if INTERMEDIATE in sizes:
        return "MLP"
    if key in ("aten::mm", "aten::addmm", "aten::bmm"):
        return "projections of attention"
    return "norms, rotary embedding, residuals, loss and the trainer's own work"


if __name__ == "__main__":
    raise SystemExit(main())
