"""What both reproduction scripts share: arms that run once, results that are appended, and tables.

An arm is a recipe with settings; each of its runs is one line of `benchmarks/results/NAME.jsonl`,
with the held-out score of every prompt, so that tables and plots need no run folder. A run that has
its line is not repeated: a stopped script goes on where it was, and `--budget MINUTES` stops it.

An arm's free settings are chosen on tuning seeds and the split `validation`, every arm with as many
candidates; the chosen one runs once on fresh seeds and the split `test`, and only that is reported.
Intervals are 95 % percentile bootstrap, paired by prompt; seeds are drawn first, then prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from comparing import Arm, Setting, Study, chosen, is_of, table
from recording import RESULTS

from align.data.shards import read_records
from align.records import Sample, Score
from align.report.summary import read_run

RECIPES = Path(__file__).parents[1] / "recipes"
KEPT = ("kl", "tokens", "distinct_2", "at_limit")


class Runner:
    """Runs what is missing until the budget is spent."""

    def __init__(self, study: Study, options: argparse.Namespace) -> None:
        self._study, self._options = study, options
        self._began = time.monotonic()
        self.left: list[str] = []
        """Runs that the budget did not allow."""

    def run(self) -> None:
        """Tuning first, where an arm has a choice, then fresh seeds, one seed of all arms at a
        time.
        """
        options, study = self._options, self._study
        for seed in options.tuning_seeds:
            for arm in study.arms:
                for choice in arm.grid if len(arm.grid) > 1 else ():
                    self._once(arm, choice, seed, "tuning")
        for seed in options.seeds:
            for arm in study.arms:
                choice = chosen(study.lines(), arm, options.tuning_seeds)
                if choice is None:
                    self.left.append(f"{arm.name} seed {seed}: not tuned yet")
                else:
                    self._once(arm, choice, seed, "fresh")

    def _once(self, arm: Arm, choice: Setting, seed: int, role: str) -> None:
        known = any(
            is_of(line, arm, choice, role) and line["seed"] == seed for line in self._study.lines()
        )
        if known:
            return
        if time.monotonic() - self._began > 60 * self._options.budget:
            self.left.append(f"{arm.name} {' '.join(choice)} seed {seed} ({role})")
            return
        split = "validation" if role == "tuning" else "test"
        settings = [*arm.settings, *choice, *self._options.set]
        settings += [f"evaluate.prompts.split={split}", f"run.seed={seed}"]
        bases = {name: self._base(name, seed) for name in self._study.bases}
        settings = [setting.format(**bases) for setting in settings]
        tag = "-".join(part.partition("=")[2] for part in choice)
        out = self._folder(f"{arm.name}{'-' + tag if tag else ''}-{role}-{seed}")
        began = time.monotonic()
        cache = Path(self._options.out) / "cache"
        is_done = self._align(arm.recipe, out, [f"run.cache={cache}", *settings])
        line = {
            "arm": arm.name,
            "choice": list(choice),
            "settings": list(arm.settings),
            "seed": seed,
            "role": role,
            "seconds": round(time.monotonic() - began),
            **(measure(out) if is_done else {"failed": str(out)}),
        }
        self._study.path.parent.mkdir(exist_ok=True)
        with self._study.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _base(self, name: str, seed: int) -> str:
        recipe, settings = self._study.bases[name]
        tag = "-".join(part.partition("=")[2] for part in settings)
        out = Path(self._options.out) / f"base-{tag}-{seed}"
        wanted = [*settings, f"run.seed={seed}"]
        if not (out / "sft" / "manifest.json").is_file() and not self._align(recipe, out, wanted):
            raise SystemExit(f"{out}: without its base nothing can be run")
        return str(out / "sft")

    def _folder(self, name: str) -> Path:
        return Path(self._options.out) / self._study.name / name

    def _align(self, recipe: str, out: Path, settings: Sequence[str]) -> bool:
        """Whether it ran to its end. A policy whose numbers are no longer finite is a result."""
        words = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "-m", "align", "run", str(RECIPES / recipe), "--out", str(out)]
        status = subprocess.run([*command, *words], stdout=sys.stderr).returncode
        logs = [log.read_text(errors="replace") for log in (out / "logs").glob("*.log")]
        if status and not any("NumericsError" in log for log in logs):
            raise SystemExit(f"{' '.join([*command, *words])} ended with status {status}")
        return status == 0


def measure(out: Path) -> dict[str, object]:
    """A finished run's pass@1 by held-out prompt, before and after, and what stands beside it."""
    last = read_run(out).points[-1]
    prompts, values = _by_prompt(out / last.name / "eval")
    before, start = _by_prompt(out / "start" / "eval")
    if prompts != before:
        raise SystemExit(f"{out}: first and last policy were evaluated on other prompts")
    return {
        "score": float(np.mean(values)),
        "values": values,
        "start": start,
        **{name: last.mean(name) for name in KEPT},
    }


def _by_prompt(folder: Path) -> tuple[list[str], list[float]]:
    """Prompt ids in order, and the share of each prompt's samples that are right."""
    scores = {one.sample_id: one.value for one in read_records(folder / "scores", Score)}
    found: dict[str, list[float]] = {}
    for sample in read_records(folder / "samples", Sample):
        value = scores[sample.sample_id]
        if value is not None:
            found.setdefault(sample.prompt_id, []).append(float(value > 0))
    return sorted(found), [round(float(np.mean(found[name])), 4) for name in sorted(found)]


def main(
    description: str | None,
    parts: Mapping[str, Callable[[str], Study]],
    draw: Callable[[Study, argparse.Namespace], None],
) -> int:
    """Runs the parts that were asked for, on the base that was asked for; writes each one's table
    and plot.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--base", default="third", help="third, rare or frequent success")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--budget", type=float, default=600, help="minutes; then it stops")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every arm")
    parser.add_argument("--out", default="runs/reproduce", help="folder of the runs")
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    options = parser.parse_args()
    began, left = time.monotonic(), list[str]()
    total = options.budget
    for part in options.parts:
        study = parts[part](options.base)
        options.budget = total - (time.monotonic() - began) / 60
        runner = Runner(study, options)
        if not options.only_table:
            runner.run()
        left += [f"{part}: {one}" for one in runner.left]
        text = "\n".join(table(study, options))
        print(text, flush=True)
        (RESULTS / f"{study.name}.md").write_text(text + "\n")
        draw(study, options)
    if left:
        print(f"the budget left {len(left)} runs: the same command goes on", *left[:8], sep="\n  ")
    return 0
