"""A run that is killed again and again, and an undisturbed one to compare it with.

    python -m tests.end_to_end.chaos --out /tmp/chaos             # up to 35 kills; prints the table
    python -m tests.end_to_end.chaos --out /tmp/chaos --seed 1 --save benchmarks/results/chaos.md

Every kill is SIGKILL, of `align run` alone (its children must notice) or of its whole tree at once,
at a random moment of a stage, uniform over the time that the stage took undisturbed, or as soon as
a shard or a checkpoint is half written; at the latest when all is written but the stage's manifest.
Then the same command is typed again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.conftest import TINY_POLICY, contents, quiet_environment

RECIPE = (
    "\nrun: {name: chaos, seed: 3, iterations: 3}\n"
    + TINY_POLICY
    + """\
sft:
  data: {name: addition, digits: 2, split: train, limit: 256}
  global_batch_size: 16
  max_length: 16
  args: {learning_rate: 1.0e-2, max_steps: 48, save_steps: 8}
reward:
  data:
    prompts: {name: addition, digits: 2, split: prompts, limit: 300}
    generate: {name: vllm, n: 4, temperature: 1.0, max_new_tokens: 5}
    score: {name: length}
    pair: {name: max_min, truncated: keep}
  global_batch_size: 8
  max_length: 16
  args: {learning_rate: 1.0e-3, max_steps: 24, save_steps: 4}
prompts: {name: addition, digits: 2, split: prompts, per_iteration: 600}
generate: {name: vllm, n: 4, temperature: 1.0, max_new_tokens: 5}
score: {name: reward_model}
select: {name: best_of_n, keep: 3}
pair: {name: max_min, truncated: keep}
train:
  objective: {name: dpo, loss: sigmoid, beta: 1.0}
  reference: {ema: 0.5}
  global_batch_size: 8
  args: {learning_rate: 1.0e-3, max_steps: 24, save_steps: 4}
evaluate:
  prompts: {name: addition, digits: 2, split: test, limit: 300}
  generate: {name: vllm, n: 2, temperature: 1.0, max_new_tokens: 5}
"""
)
"""Its 600 prompts are three shards an iteration."""


TRAINING = ("checkpoint", "moment", "moment")
"""What is half written comes first: after a late moment there is no more of it."""


def schedule() -> list[tuple[str, str]]:
    """(step, when) of every kill, in the order of the run. An iteration's evaluation and the next
    one's samples share an engine, so they are under way together.
    """
    kills = [("policy", "moment"), ("sft", "checkpoint"), ("sft", "moment"), ("sft", "moment")]
    kills += [("reward", when) for when in ("checkpoint", "moment")]
    kills += [("iter-000/samples", when) for when in ("shard", "moment")]
    for i in range(3):
        kills.append((f"iter-{i:03d}/scores", "moment"))
        if i:  # its weights lie there, which are all it has
            kills.append((f"iter-{i - 1:03d}/reference", "end"))
        kills += [(f"iter-{i:03d}/checkpoint", when) for when in TRAINING]
        kills.append((f"iter-{i:03d}/eval/samples", "moment"))
        if i < 2:
            kills += [(f"iter-{i + 1:03d}/samples", when) for when in ("shard", "moment")]
        kills += [(f"iter-{i:03d}/eval/{name}", "moment") for name in ("scores", "summary")]
    return kills


@dataclass(frozen=True)
class Kill:
    """One that struck while the run was under way."""

    aimed: str
    when: str
    tree: bool
    seconds: float
    """After the step began."""
    found: str
    """What lay there."""


def strike(
    command: Sequence[str],
    out: Path,
    aim: tuple[str, str],
    seconds: float,
    *,
    parts: int,
    tree: bool,
) -> Kill | None:
    """Runs the command and kills it; None where the stage was over before the moment came. `parts`
    are those of the finished step.
    """
    step, when = aim
    folder, began, since = out / step, 0.0, time.time()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=quiet_environment()
    )
    while process.poll() is None:
        if (folder / "manifest.json").is_file():
            break
        if not began and is_newer(folder / "pending.json", since):
            began = time.monotonic()
        passed = time.monotonic() - began if began else 0.0
        is_half = when != "moment" and is_half_written(folder, when)
        is_due = is_half or (when == "moment" and passed >= seconds)
        if began and (is_due or is_all_but_finished(folder, parts, since)):
            _kill(process, tree=tree)
            return Kill(step, when if is_half else "moment", tree, passed, describe(folder))
        time.sleep(0.003)
    _kill(process, tree=tree)
    return None


def is_half_written(folder: Path, what: str) -> bool:
    """Whether a shard is under way beside finished ones, or a checkpoint without its marker. At
    the end of a step nothing is: there all is written but its manifest.
    """
    if what == "end":
        return False
    if what == "shard":
        return any(folder.glob("part-*.parquet")) and any(folder.glob(".leases/part-*"))
    return any(not (p / "complete").exists() for p in folder.glob(".trainer/checkpoint-*"))


def is_all_but_finished(folder: Path, parts: int, since: float) -> bool:
    """Whether all parts lie there, or what a step writes last was written after `since`."""
    if parts:
        return len(list(folder.glob("part-*.parquet"))) == parts
    last = [*folder.glob("*.safetensors"), *folder.glob("result.json")]
    return any(is_newer(path, since) for path in last)


def is_newer(path: Path, since: float) -> bool:
    """Whether the file was written after this Unix time."""
    try:
        return path.stat().st_mtime > since
    except FileNotFoundError:
        return False


def describe(folder: Path) -> str:
    """What a kill left in a step's folder."""
    if (folder / "manifest.json").is_file():
        return "just finished"
    found = []
    if parts := list(folder.glob("part-*.parquet")):
        found.append(f"{len(parts)} whole parts")
    if list(folder.glob(".leases/part-*")):
        found.append("a lease")
    kept = list(folder.glob(".trainer/checkpoint-*"))
    whole = sum((path / "complete").is_file() for path in kept)
    if whole:
        found.append(f"{whole} whole checkpoints")
    if len(kept) > whole:
        found.append("a checkpoint half written")
    if list(folder.glob("*.safetensors")):
        found.append("weights without a manifest")
    return ", ".join(found) or "nothing yet"


def chaos(
    out: Path, *, seed: int = 0, say: Callable[[str], None] = print
) -> tuple[list[Kill], bool]:
    """Both runs below `out`; the kills, and whether the killed run's content is the other's."""
    recipe = out / "recipe.yaml"
    out.mkdir(parents=True, exist_ok=True)
    recipe.write_text(RECIPE)
    calm, killed = out / "undisturbed", out / "killed"
    finish(_command(recipe, calm))
    durations = {name: float(manifest["seconds"]) for name, manifest in manifests(calm).items()}
    rng, kills = random.Random(seed), list[Kill]()
    for number, aim in enumerate(schedule()):
        # After a kill an engine starts cold, as it did for the first batch of samples.
        samples = aim[0].endswith("samples")
        names = ("start/eval/samples", "iter-000/samples") if samples else (aim[0],)
        seconds = rng.uniform(0.0, sum(durations[name] for name in names))
        parts = len(list((calm / aim[0]).glob("part-*.parquet")))
        command = _command(recipe, killed)
        kill = strike(command, killed, aim, seconds, parts=parts, tree=number % 2 == 0)
        if kill is not None:
            kills.append(kill)
            say(f"{len(kills)}: {kill.aimed} after {kill.seconds:.1f} s: {kill.found}")
    finish(_command(recipe, killed))
    return kills, contents(killed) == contents(calm)


def manifests(out: Path) -> dict[str, dict[str, float | str]]:
    """Step -> its manifest."""
    found = [json.loads(path.read_text()) for path in sorted(out.rglob("manifest.json"))]
    return {manifest["step"]: manifest for manifest in found}


def finish(command: Sequence[str]) -> None:
    """Runs it to its end; fails with what it printed where it does not succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=quiet_environment(), timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "align", "run", str(recipe), "--out", str(out)]


def _kill(process: subprocess.Popen[bytes], *, tree: bool) -> None:
    victims = [process.pid, *(_descendants(process.pid) if tree else ())]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found, waiting = list[int](), [root]
    while waiting:
        children = [child for child, parent in parents.items() if parent == waiting[-1]]
        waiting.pop()
        waiting += children
        found += children
    return found


def table(kills: Sequence[Kill], same: bool, seed: int) -> list[str]:
    """Lines of markdown."""
    verdict = "the same as" if same else "NOT that of"
    lines = [f"{len(kills)} kills (seed {seed}) in three iterations: every step's content is "]
    lines[0] += f"{verdict} the undisturbed run's."
    lines += [
        "",
        "| # | stage | SIGKILL to | at | what lay in its folder |",
        "|---|---|---|---|---|",
    ]
    for number, kill in enumerate(kills, start=1):
        whom = "the whole tree" if kill.tree else "`align run`"
        when = "" if kill.when == "moment" else f", {kill.when} half written"
        lines.append(
            f"| {number} | {kill.aimed} | {whom} | {kill.seconds:.1f} s{when} | {kill.found} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for both runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="also write the table there")
    args = parser.parse_args()
    kills, same = chaos(args.out, seed=args.seed)
    text = "\n".join(table(kills, same, args.seed)) + "\n"
    print(text)
    if args.save is not None:
        args.save.write_text(text)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
