"""Runs a recipe for several seeds and prints what each reached, from the runs' own manifests.

    python benchmarks/bench_seeds.py                                   # the quickstart, seeds 0 1 2
    python benchmarks/bench_seeds.py recipes/quickstart/topr.yaml --seeds 0 1 2
    python benchmarks/bench_seeds.py RECIPE --set policy.path=... --metric score/true_valence

A finished run is not repeated, so the command also prints the table of runs that are already there.
With `--save NAME` the table goes to `benchmarks/results/NAME.md` too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from recording import machine, record

from align.report.summary import Point, Summary, read_run


def main() -> int:
    args = _parse()
    lines = [f"`{' '.join(['python', *sys.argv])}`", ""]
    columns = (
        "seed",
        "policy",
        args.metric,
        "95 %",
        "gain in score",
        "95 % (paired)",
        "KL",
        "tokens",
        "distinct-2",
    )
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    summaries: dict[int, Summary] = {}
    for seed in args.seeds:
        out = Path(args.out) / f"{Path(args.recipe).stem}-{seed}"
        _run(args, seed, out)
        summaries[seed] = read_run(out)
        lines += [_row(str(seed), point, args.metric) for point in summaries[seed].points]
    lines += ["", *_means(summaries, args.metric), "", machine()]
    record(lines, args.save)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="recipes/quickstart/online_dpo.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--metric", default="pass@1", help="a metric of the evaluate stage")
    parser.add_argument("--out", default="runs/bench", help="folder of the runs")
    parser.add_argument("--save", metavar="NAME", help="also write benchmarks/results/NAME.md")
    return parser.parse_args()


def _run(args: argparse.Namespace, seed: int, out: Path) -> None:
    settings = [word for value in [f"run.seed={seed}", *args.set] for word in ("--set", value)]
    command = [sys.executable, "-m", "align", "run", args.recipe, "--out", str(out), *settings]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _row(seed: str, point: Point, metric: str) -> str:
    gain = metric.replace("score/", "gain/") if metric.startswith("score/") else "gain"
    cells = [seed, point.name, _number(point.mean(metric)), _bounds(point, metric)]
    cells += [_number(point.mean(gain)), _bounds(point, gain)]
    cells += [_number(point.mean(name)) for name in ("kl", "tokens", "distinct_2")]
    return f"| {' | '.join(cells)} |"


def _means(summaries: dict[int, Summary], metric: str) -> list[str]:
    """Means over seeds of each policy, the smallest step of any seed, and the steps' seconds."""
    names = [point.name for point in next(iter(summaries.values())).points]
    curves = [[point.mean(metric) or 0.0 for point in run.points] for run in summaries.values()]
    means = [sum(values) / len(values) for values in zip(*curves, strict=True)]
    drops = [min(b - a for a, b in pairwise(curve)) for curve in curves]
    shown = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))
    seconds = ", ".join(f"{seed}: {run.seconds:.0f} s" for seed, run in summaries.items())
    return [
        f"Mean over {len(curves)} seeds: {shown}; gain {means[-1] - means[0]:+.3f}.",
        f"Smallest step from one policy to the next: {min(drops):+.3f}.",
        f"Seconds of all steps, by seed: {seconds}.",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bounds(point: Point, metric: str) -> str:
    found = point.bounds(metric)
    return "-" if found is None else f"[{found[0]:.3f}, {found[1]:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
