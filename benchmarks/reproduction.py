"""What both reproduction scripts share: arms that run once, results that are appended, and tables.

An arm is a recipe with settings; each of its runs is one line of
`benchmarks/results/SCRIPT_BASE.jsonl`, with the held-out score of every prompt, so that tables and
plots need no run folder. A run that has its line is not repeated, whichever part asks for it: a
stopped script goes on where it was, and `--budget MINUTES` stops it.

An arm's free settings are chosen on tuning seeds and on prompts of their own, every arm with as
many candidates; the chosen one runs once on fresh seeds and the reported prompts. Intervals are
95 % percentile bootstrap, paired by prompt; seeds are drawn first, then prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from comparing import RECIPES, Arm, Line, Setting, Study, Task, chosen, is_of
from recording import RESULTS
from tables import table
from warm import run_warm

from align.data.shards import read_records
from align.launch.forks import import_libraries
from align.records import Sample, Score
from align.report.summary import read_run

MEASURED = "measured.json"
"""In a run's folder: what its line says of it."""
KEPT = ("kl", "tokens", "distinct_2", "at_limit")
STORIES: Mapping[str, str] = {
    "stories": "models/tinystories-llama-260k",
    "prompts": "data/tinystories_prompts",
    "lexicon": "data/vader_lexicon.tsv",
}
"""Paths that the task `stories` needs (recipes/tinystories/README.md says what they are), and where
they lie in `ALIGN_SHARED`."""
Part = Callable[[str], Study]


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
                choice = chosen(study, study.lines(), arm, options.tuning_seeds)
                if choice is None:
                    self.left.append(f"{arm.name} seed {seed}: not tuned yet")
                else:
                    self._once(arm, choice, seed, "fresh")

    def _once(self, arm: Arm, choice: Setting, seed: int, role: str) -> None:
        study, lines = self._study, self._study.lines()
        key = study.key(arm, choice)
        if _is_known(lines, key, seed, role):
            return
        if time.monotonic() - self._began > 60 * self._options.budget:
            self.left.append(f"{arm.name} {' '.join(choice)} seed {seed} ({role})")
            return
        places = {name: self._base(name, seed) for name in study.bases}
        places |= {name: str(getattr(self._options, name)) for name in study.task.files}
        settings = [*arm.settings, *choice, *study.task.splits[role]]
        settings = [setting.format(**places) for setting in settings]
        settings += [f"run.seed={seed}", f"run.cache={Path(self._options.out) / 'cache'}"]
        out = Path(self._options.out) / study.record / f"{role}-{seed}-{key}"
        began = time.monotonic()

        def measure_it() -> None:
            (out / MEASURED).write_text(json.dumps(measure(out, study.task)))

        is_done = run_warm(RECIPES / arm.recipe, settings, out, measure_it)
        found = json.loads((out / MEASURED).read_text()) if is_done else {}
        said = {"recipe": arm.recipe, "settings": [*arm.settings, *choice]}
        ends = {"key": key, "seed": seed, "role": role}
        seconds = {"seconds": round(time.monotonic() - began, 1)}
        last = found.get("last", {"failed": "its numbers did not stay finite"})
        self._append({**said, **ends, **seconds, **last})
        first = {**ends, "key": study.start_key()}
        if is_done and not _is_known(lines, first["key"], seed, role):
            self._append({"recipe": "start", **first, **found["start"]})
        score = last.get("score")
        mean = "" if score is None else f"{sum(score) / len(score) / last['samples']:.3f}"
        words = " ".join((*arm.settings, *choice))
        print(f"{arm.name} {words} seed {seed} ({role}): {mean} {seconds['seconds']} s", flush=True)

    def _append(self, line: Line) -> None:
        self._study.path.parent.mkdir(exist_ok=True)
        with self._study.path.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _base(self, name: str, seed: int) -> str:
        base = self._study.bases[name]
        out = Path(self._options.out) / f"base-{self._study.base_key(name)}-{seed}"
        if not (out / "done").is_file():
            files = {name: str(getattr(self._options, name)) for name in self._study.task.files}
            settings = [setting.format(**files) for setting in base.settings]
            if not run_warm(RECIPES / base.recipe, [*settings, f"run.seed={seed}"], out):
                raise SystemExit(f"{out}: without its base nothing can be run")
            (out / "done").touch()
        return str(out / base.step)


def _is_known(lines: Sequence[Line], key: str, seed: int, role: str) -> bool:
    return any(is_of(line, key, role) and line["seed"] == seed for line in lines)


def measure(out: Path, task: Task) -> dict[str, dict[str, object]]:
    """What a finished run's held-out samples are worth, before (`start`) and after (`last`)."""
    points = read_run(out).points
    found: dict[str, dict[str, object]] = {}
    names: dict[str, list[str]] = {}
    for role, point in (("start", points[0]), ("last", points[-1])):
        names[role], values = _by_prompt(out / point.name / "eval", task)
        found[role] = values | {
            name: round(value, 4) for name in KEPT if (value := point.mean(name)) is not None
        }
    if names["start"] != names["last"]:
        raise SystemExit(f"{out}: first and last policy were evaluated on other prompts")
    return found


def _by_prompt(folder: Path, task: Task) -> tuple[list[str], dict[str, object]]:
    """Prompt ids in order, and by prompt the sum of its samples' scores."""
    scores = {one.sample_id: one for one in read_records(folder / "scores", Score)}
    groups: dict[str, list[Sample]] = {}
    for sample in read_records(folder / "samples", Sample):
        groups.setdefault(sample.prompt_id, []).append(sample)
    names = sorted(groups)
    sizes = {len(group) for group in groups.values()}
    if len(sizes) != 1:
        raise SystemExit(f"{folder}: prompts have {sorted(sizes)} samples, not all the same number")

    def summed(value: Callable[[Score], float]) -> list[float]:
        return [
            round(sum(value(scores[sample.sample_id]) for sample in groups[name]), 1)
            for name in names
        ]

    found: dict[str, object] = {"samples": sizes.pop()}
    if task.is_verified:
        found["score"] = [int(one) for one in summed(lambda score: (score.value or 0.0) > 0)]
    else:
        found["score"] = summed(lambda score: score.value or 0.0)
    if task.proxy is not None:
        label = task.proxy
        found["proxy"] = summed(lambda score: score.parts[label] or 0.0)
    if task.answer is not None:
        everything = [sample for group in groups.values() for sample in group]
        whole = re.compile(task.answer)
        bad = [one.finish != "stop" or not whole.fullmatch(one.text) for one in everything]
        found["malformed"] = round(sum(bad) / len(bad), 4)
    return names, found


def main(
    description: str | None,
    tasks: Mapping[str, Mapping[str, Part]],
    draw: Callable[[Study, argparse.Namespace], None],
) -> int:
    """Runs the parts that were asked for, of the task and on the base that was asked for; writes
    each one's table and plot.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=tasks, default="addition")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="default: all of the task")
    parser.add_argument("--base", default="third", help="of addition: third, rare or frequent")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--budget", type=float, default=600, help="minutes; then it stops")
    parser.add_argument("--out", default="runs/reproduce", help="folder of the runs")
    shared = Path(os.environ.get("ALIGN_SHARED", "../shared"))
    for name, place in STORIES.items():
        parser.add_argument(f"--{name}", type=Path, default=shared / place, help="of stories")
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    options = parser.parse_args()
    parts = tasks[options.task]
    wanted = options.parts or list(parts)
    if unknown := sorted(set(wanted) - set(parts)):
        parser.error(f"{options.task} has no part {unknown[0]}; it has {', '.join(parts)}")
    began, left = time.monotonic(), list[str]()
    total = options.budget
    if not options.only_table:
        if options.task == "stories" and not options.lexicon.is_file():
            parser.error(f"{options.lexicon} is not there: give --{' --'.join(STORIES)}")
        import_libraries()
    for part in wanted:
        study = parts[part](options.base)
        options.budget = total - (time.monotonic() - began) / 60
        runner = Runner(study, options)
        if not options.only_table:
            runner.run()
        left += [f"{part}: {one}" for one in runner.left]
        text = "\n".join(table(study, options, _command(options, part)))
        print(text, flush=True)
        (RESULTS / f"{study.name}.md").write_text(text + "\n")
        draw(study, options)
    if left:
        print(f"the budget left {len(left)} runs: the same command goes on", *left[:8], sep="\n  ")
    return 0


def _command(options: argparse.Namespace, part: str) -> str:
    """What makes this table, without the paths of one machine."""
    words = [f"python benchmarks/{Path(sys.argv[0]).name}", f"--parts {part}"]
    if options.task != "addition":
        files = "--stories CHECKPOINT --prompts PROMPTS --lexicon LEXICON"
        words += [f"--task {options.task}", files]
    elif options.base != "third":
        words.append(f"--base {options.base}")
    words += ["--seeds", *map(str, options.seeds)]
    return " ".join([*words, "--tuning-seeds", *map(str, options.tuning_seeds)])
