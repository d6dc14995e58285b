"""`align evaluate-reward RECIPE`: pair accuracy by subset on a preference file, and the best-of-n
curve of stored samples under a second ("gold") reward.

Intervals of accuracies are Wilson's where every pair has a prompt of its own, else a bootstrap over
prompts; those of the curve are bootstraps over prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from align.commands.reward_source import RewardSource, labelled_source, read_pairs, read_source
from align.errors import DataError, InputError
from align.ops.statistics import (
    Interval,
    best_of_n,
    best_of_n_kl_bound,
    mean_interval,
    wilson_interval,
)
from align.records import Json, Prompt, Score
from align.report.console import make_console
from align.rewards.labelled import write_pairs
from align.rewards.protocol import Group
from align.rewards.trust import Values, errors_of, score, values_of
from align.stages.stored_groups import StoredGroups, read_groups

ALL = "all"


@dataclass(frozen=True)
class Accuracy:
    """Pairs of one subset."""

    subset: str
    pairs: int
    """Those with two scores."""
    ties: int
    failed: int
    accuracy: Interval
    """Ties count half."""
    strict: float
    """Share of pairs where the chosen scores higher: ties count as wrong."""
    longer: float
    """What "prefer the longer" scores on the same pairs."""


@dataclass(frozen=True)
class Best:
    """The best of n by the reward."""

    n: int
    proxy: Interval
    gold: Interval
    kl: float
    """Upper bound of the KL to the sampler, nats."""


def main(args: argparse.Namespace) -> int:
    """Prints the tables; raises `InputError` where there are neither pairs nor samples."""
    if args.json is not None and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"--json {args.json}: its folder is not there; make it first")
    source, console = read_source(args.recipe, args.overrides, args.out), make_console()
    disable_progress_bar()  # of loading weights: the tables are the output
    wants_pairs = args.data is not None or args.samples is None
    report: dict[str, Json] = {"recipe": args.recipe}
    if wants_pairs:
        accuracies, counts = _evaluate_pairs(args, source, console)
        console.print(_accuracy_table(accuracies))
        console.print(Text(f"rows: {', '.join(f'{v} {k}' for k, v in counts.items() if v)}"))
        report["pairs"] = {one.subset: _accuracy_json(one) for one in accuracies}
        report["rows"] = dict(counts)
    if args.samples is not None:
        curve, text = _evaluate_samples(args, source, console)
        console.print(_curve_table(curve))
        console.print(Text(text))
        report["best_of_n"] = [_best_json(one) for one in curve]
    if args.json is not None:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _evaluate_pairs(
    args: argparse.Namespace, source: RewardSource, console: Console
) -> tuple[list[Accuracy], Mapping[str, int]]:
    cleaned = read_pairs(
        labelled_source(args, source.recipe), seed=source.recipe.run.seed, chat=args.chat
    )
    subsets = [subset_of(item.prompt, args.subset_column) for item in cleaned.rows]
    groups = write_pairs(cleaned.rows, source.writer())
    with console.status(f"scoring {len(groups)} pairs"):
        values = _score(source, groups, console)
    return accuracy_by_subset(groups, values, subsets), cleaned.counts


def _score(source: RewardSource, groups: Sequence[Group], console: Console) -> Values:
    """Their values; why some have none is told."""
    scorer = source.reward.open()
    try:
        scores = score(scorer, groups)
    finally:
        scorer.close()
    values = values_of(scores)
    errors = errors_of(scores)
    if all(value is None for value in values):
        reason = errors.most_common(1)[0][0]
        raise InputError(f"none of {len(values)} samples could be scored: {reason}")
    if errors:
        reason, count = errors.most_common(1)[0]
        failed = f"{errors.total()} of {len(values)} samples failed"
        console.print(Text(f"{failed}, {count} of them with: {reason}"))
    return values


def subset_of(prompt: Prompt, column: str | None) -> str | None:
    """The prompt's value in the column; None without a column.

    Raises `DataError` where the rows lack it.
    """
    if column is None:
        return None
    meta = prompt.meta if isinstance(prompt.meta, Mapping) else {}
    if column not in meta:
        others = f"the others are {sorted(meta)}" if meta else "there are no others"
        raise DataError(f"there is no column {column!r} beside the pairs; {others}")
    return str(meta[column])


def accuracy_by_subset(
    groups: Sequence[Group], values: Values, subsets: Sequence[str | None]
) -> list[Accuracy]:
    """All pairs first, then each subset in the order of its name. `values` are chosen, rejected, in
    turn.
    """
    places = range(len(groups))
    found = [_accuracy(ALL, places, groups, values)]
    for name in sorted({subset for subset in subsets if subset is not None}):
        members = [place for place in places if subsets[place] == name]
        found.append(_accuracy(name, members, groups, values))
    return found


def _accuracy(
    name: str, places: Sequence[int], groups: Sequence[Group], values: Values
) -> Accuracy:
    right, longer, prompts = list[float](), list[float](), list[str]()
    for place in places:
        chosen, rejected = values[2 * place], values[2 * place + 1]
        if chosen is None or rejected is None:
            continue
        one, other = (sum(sample.loss_mask) for sample in groups[place].samples)
        right.append(_half(chosen - rejected))
        longer.append(_half(one - other))
        prompts.append(groups[place].prompt.prompt_id)
    count = len(right)
    ties = sum(value == 0.5 for value in right)
    nothing = float("nan")
    if not count:
        none = Interval(nothing, nothing, nothing)
        return Accuracy(name, 0, 0, len(places), none, nothing, nothing)
    # Pairs of one prompt are not independent.
    alone = len(set(prompts)) == count
    share = wilson_interval(sum(right), count) if alone else mean_interval(right, prompts)
    strict = sum(value == 1.0 for value in right) / count
    return Accuracy(name, count, ties, len(places) - count, share, strict, sum(longer) / count)


def _half(gap: float) -> float:
    return 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0


def _evaluate_samples(
    args: argparse.Namespace, source: RewardSource, console: Console
) -> tuple[list[Best], str]:
    stored = read_groups(args.samples)
    with console.status(f"scoring {sum(len(g.samples) for g in stored.groups)} samples"):
        proxy = _score(source, stored.groups, console)
        gold, name = _gold(args, stored, console)
    if gold == proxy:
        raise InputError(
            f"gold ({name}) scores every sample as the reward itself does, so the curve could show "
            "no over-optimisation; name another reward with --gold"
        )
    curve, kept = best_of_n_curve(stored.groups, proxy, gold)
    return curve, f"gold: {name}; {kept} of {len(stored.groups)} prompts have all their scores"


def _gold(args: argparse.Namespace, stored: StoredGroups, console: Console) -> tuple[Values, str]:
    if args.gold is not None:
        source = read_source(args.gold, [], args.out, gold=True)
        return _score(source, stored.groups, console), f"score of {args.gold}"
    source = read_source(args.recipe, args.overrides, args.out, gold=True)
    evaluate, trained = source.recipe.evaluate, source.recipe.score
    if evaluate is not None and evaluate.score is not None and trained is not None:
        return _score(source, stored.groups, console), f"evaluate.score of {args.recipe}"
    if stored.scores:
        samples = [sample for group in stored.groups for sample in group.samples]
        missing = [Score(sample.sample_id, None) for sample in samples]
        found = [stored.scores.get(one.sample_id, one) for one in missing]
        return values_of(found), f"the scores stored with {args.samples}"
    raise InputError(
        "the best-of-n curve needs a second reward: name a recipe with --gold, add evaluate.score, "
        "or give samples that have scores"
    )


def best_of_n_curve(groups: Sequence[Group], proxy: Values, gold: Values) -> tuple[list[Best], int]:
    """For n = 1, 2, 4, ... and the smallest group's size, and how many prompts it stands on.

    A prompt counts where all its samples have both scores: leaving out single samples would favour
    the prompts that fail. Unbiased for fresh samples (ALGORITHMS 5).
    """
    kept: list[tuple[str, list[float], list[float]]] = []
    start = 0
    for group in groups:
        end = start + len(group.samples)
        ours = [value for value in proxy[start:end] if value is not None]
        theirs = [value for value in gold[start:end] if value is not None]
        if len(ours) == len(theirs) == end - start:
            kept.append((group.prompt.prompt_id, ours, theirs))
        start = end
    if not kept:
        raise DataError("no prompt has both scores for all its samples")
    smallest = min(len(ours) for _, ours, _ in kept)
    sizes = [2**power for power in range(smallest.bit_length()) if 2**power < smallest]
    names = [name for name, _, _ in kept]
    found: list[Best] = []
    for n in [*sizes, smallest]:
        ours = mean_interval([best_of_n(a, n) for _, a, _ in kept], names)
        theirs = mean_interval([best_of_n(a, n, b) for _, a, b in kept], names)
        found.append(Best(n, ours, theirs, best_of_n_kl_bound(n)))
    return found, len(kept)


def _accuracy_table(accuracies: Sequence[Accuracy]) -> Table:
    table = _table("subset", "pairs", "accuracy", "95 %", "strict", "ties", "failed", "longer")
    for one in accuracies:
        share = f"[{one.accuracy.low:.3f}, {one.accuracy.high:.3f}]"
        row = (f"{one.accuracy.estimate:.3f}", share, f"{one.strict:.3f}", str(one.ties))
        table.add_row(one.subset, str(one.pairs), *row, str(one.failed), f"{one.longer:.3f}")
    return table


def _curve_table(curve: Sequence[Best]) -> Table:
    table = _table("best of", "reward", "95 %", "gold", "95 %", "KL <=")
    for one in curve:
        cells = [
            text
            for found in (one.proxy, one.gold)
            for text in (f"{found.estimate:.4g}", f"[{found.low:.4g}, {found.high:.4g}]")
        ]
        table.add_row(str(one.n), *cells, f"{one.kl:.3f}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(Text(name), justify="right")
    return table


def _accuracy_json(one: Accuracy) -> dict[str, Json]:
    return {
        "pairs": one.pairs,
        "accuracy": one.accuracy.estimate,
        "low": one.accuracy.low,
        "high": one.accuracy.high,
        "strict": one.strict,
        "ties": one.ties,
        "failed": one.failed,
        "longer": one.longer,
    }


def _best_json(one: Best) -> dict[str, Json]:
    return {"n": one.n, "reward": list(one.proxy), "gold": list(one.gold), "kl_bound": one.kl}
