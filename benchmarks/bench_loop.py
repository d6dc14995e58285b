"""What the loop itself costs: time outside sampling, scoring and gradient work, weight syncs
against engine starts, sampling against plain `transformers.generate`, and whether samples depend on
anything but their seeds.

    python benchmarks/bench_loop.py                # the quickstart, then samplers on its policy
    python benchmarks/bench_loop.py --out runs/bench/loop --save loop
    python benchmarks/bench_loop.py RECIPE --set policy.path=... --out DIR

A run that is finished in `--out` is read, but its screen (`--out`/../loop.log) is not made again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recording import machine, record

from align.data.shards import read_records
from align.generation.protocol import Sampler, Setting
from align.generation.vllm import Vllm
from align.records import Prompt, Sample, WeightsRef
from align.report.summary import KINDS, read_run

PROMPTS = 512
"""For the samplers' comparison; the quickstart's answers are five tokens long."""


def main() -> int:
    args = _parse()
    out = Path(args.out)
    log = out.parent / f"{out.name}.log"
    lines = [f"`{' '.join(['python', *sys.argv])}`", ""]
    _run(args, out, log)
    lines += [*_shares(out, log.read_text()), ""]
    if not args.loop_only:
        lines += [*_samplers(out), ""]
    lines.append(machine())
    record(lines, args.save)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="recipes/quickstart/online_dpo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", default="runs/bench/loop", help="folder of the run")
    parser.add_argument("--loop-only", action="store_true", help="leave the samplers out")
    parser.add_argument("--save", metavar="NAME", help="also write benchmarks/results/NAME.md")
    return parser.parse_args()


def _run(args: argparse.Namespace, out: Path, log: Path) -> None:
    if log.is_file():
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = [word for value in args.set for word in ("--set", value)]
    command = [sys.executable, "-m", "align", "run", args.recipe, "--out", str(out), *settings]
    temporary = log.with_suffix(".part")
    with temporary.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=sys.stderr)
            file.write(f"{time.time():.2f} {line}")
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    temporary.replace(log)


def _shares(out: Path, screen: str) -> list[str]:
    """Wall time by kind of step, from the moment that the first engine runs."""
    started = re.search(r"^(\S+) engine started (?:anew )?in (\S+) s", screen, re.MULTILINE)
    assert started is not None, "the run started no engine; give a new --out"
    done = {match[2]: float(match[1]) for match in re.finditer(r"^(\S+) done (\S+)", screen, re.M)}
    # The line is printed when the batch is done, of which the start is no part.
    first = float(started[1]) - sum(
        manifest.work
        for step, manifest in read_run(out).steps
        if manifest and step.kind == "generate" and abs(done[step.name] - float(started[1])) < 5
    )
    rows: dict[str, list[float]] = {}
    until = first
    for step, manifest in read_run(out).steps:
        if manifest is not None and done.get(step.name, 0.0) > first:
            row = rows.setdefault(KINDS.get(step.kind, "other"), [0.0, 0.0])
            # from one line of the screen to the next, so that all is counted once
            row[0] += done[step.name] - until
            row[1] += manifest.work
            until = done[step.name]
    wall, work = until - first, sum(row[1] for row in rows.values())
    lines = ["| step | wall s | sampling, scoring, gradients s | rest s |", "|---|---|---|---|"]
    lines += [f"| {k} | {a:.1f} | {b:.1f} | {a - b:.1f} |" for k, (a, b) in rows.items()]
    lines.append(f"| all | {wall:.1f} | {work:.1f} | {wall - work:.1f} |")
    synced = [float(s) for s in re.findall(r"weights synced in (\S+) s", screen)]
    shown = ", ".join(f"{s:.1f} s" for s in synced) or "none"
    return [
        *lines,
        "",
        f"Outside sampling, scoring and gradient work after the first engine start: "
        f"{1 - work / wall:.1%} of {wall:.0f} s.",
        f"Engine start {started[2]} s; weight syncs: {shown}.",
    ]


def _samplers(out: Path) -> list[str]:
    """Samples a second, and what changes tokens: on the first policy, n = 8."""
    prompts = read_records(out / "iter-000/prompts", Prompt)[:PROMPTS]
    weights = WeightsRef(str(out / "sft"))
    options = Vllm(n=8, max_new_tokens=6, temperature=1.0)
    log = out / "logs" / "bench.log"
    lines = ["| sampler | samples a second |", "|---|---|"]
    sampler = options.open(weights, Setting(seed=0), log)
    list(sampler.generate(prompts[:16]))  # first calls allocate
    reference, speed = _timed(lambda: list(sampler.generate(prompts)))
    lines.append(f"| vLLM, a seed a sample | {speed:,.0f} |")
    turned = _by_id(sampler.generate(prompts[::-1]))
    small = _by_id(_in_sevens(sampler, prompts))
    sampler.close()
    free = replace(options, reproducible=False).open(weights, Setting(seed=0), log)
    list(free.generate(prompts[:16]))
    _, speed = _timed(lambda: list(free.generate(prompts)))
    lines.append(f"| vLLM, `reproducible: false` | {speed:,.0f} |")
    free.close()
    plain = _plain(out, prompts)
    lines.append(f"| `transformers.generate`, padded, 64 prompts at once | {plain:,.0f} |")
    few = replace(options, engine={"max_num_seqs": 16}).open(weights, Setting(seed=0), log)
    narrow = _by_id(few.generate(prompts))
    few.close()
    half = options.open(weights, Setting(seed=0, dtype="bfloat16"), log)
    bf16 = _by_id(half.generate(prompts))
    bf16_small = _by_id(_in_sevens(half, prompts))
    half.close()
    lines += [
        "",
        f"| what is changed | of {len(reference)} samples, with other tokens |",
        "|---|---|",
    ]
    first = _by_id(reference)
    for name, one, other in (
        ("order of the prompts turned round", first, turned),
        ("7 prompts a call instead of all", first, small),
        ("a new engine that decodes 16 at once instead of 256", first, narrow),
        ("bfloat16: 7 prompts a call instead of all", bf16, bf16_small),
    ):
        lines.append(f"| {name} | {_differing(one, other)} |")
    return lines


def _in_sevens(sampler: Sampler, prompts: Sequence[Prompt]) -> Iterable[Sample]:
    for start in range(0, len(prompts), 7):
        yield from sampler.generate(prompts[start : start + 7])


def _timed(draw: Callable[[], list[Sample]]) -> tuple[list[Sample], float]:
    began = time.monotonic()
    found = draw()
    return found, len(found) / (time.monotonic() - began)


Tokens = Mapping[tuple[str, int], tuple[int, ...]]


def _by_id(samples: Iterable[Sample]) -> Tokens:
    return {(s.prompt_id, s.index): s.completion_ids for s in samples}


def _differing(one: Tokens, other: Tokens) -> int:
    return sum(one[key] != other[key] for key in one)


def _plain(out: Path, prompts: Sequence[Prompt]) -> float:
    """What one would write without this project."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out / "sft", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(out / "sft", dtype=torch.float32).eval()
    texts = [str(prompt.messages[0]["content"]) for prompt in prompts]
    began = time.monotonic()
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            model.generate(
                **batch, do_sample=True, top_k=0, max_new_tokens=6, num_return_sequences=8
            )
    return 8 * len(texts) / (time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
