"""The reproduction scripts' tables in Markdown: what every arm did, and which claims hold."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from comparing import START, Study, chosen, difference, interval, is_of, values_of
from recording import machine

PLAIN: Mapping[str, str] = {
    "kl": "KL, nats",
    "distinct_2": "distinct bigrams",
    "tokens": "tokens",
    "malformed": "malformed",
}
"""Metrics shown by their mean alone; columns that are empty are left out."""


def table(study: Study, options: argparse.Namespace, command: str) -> list[str]:
    """Every arm, then every claim and whether its interval excludes zero."""
    seeds = ", ".join(map(str, options.tuning_seeds))
    by = "score" if study.task.proxy is None else "learned reward"
    count = _tuning_runs(study, options)
    rows = [f"`{command}`", ""]
    if count:
        rows += [
            f"Settings chosen by the mean {by} in {count} tuning runs, "
            f"seed{'s' if len(options.tuning_seeds) > 1 else ''} {seeds}, on prompts that are not "
            "the reported ones; the table has fresh seeds alone.",
            "",
        ]
    rows += [*_arms(study, options), "", *_claims(study, options), "", machine()]
    return rows


def _tuning_runs(study: Study, options: argparse.Namespace) -> int:
    lines = study.lines()
    keys = {
        study.key(arm, choice) for arm in study.arms if len(arm.grid) > 1 for choice in arm.grid
    }
    return sum(
        is_of(line, key, "tuning") and line["seed"] in options.tuning_seeds
        for line in lines
        for key in keys
    )


def _arms(study: Study, options: argparse.Namespace) -> list[str]:
    names = [START, *(arm.name for arm in study.arms)]
    scored = ["score", *(["proxy"] if study.task.proxy else [])]
    found = {
        metric: {name: values_of(study, name, options, metric) for name in names}
        for metric in (*scored, *PLAIN)
    }
    # right answers to different sums have few bigrams in common whatever the policy
    hidden = {"distinct_2"} if study.task.is_verified else set[str]()
    shown = [m for m in PLAIN if any(found[m].values()) and m not in hidden]
    heads = [study.task.label, "95 %"]
    heads += [word for _ in scored[1:] for word in ("learned reward", "95 %")]
    heads += [PLAIN[metric] for metric in shown]
    rows = [f"| arm | setting | candidates | seeds | {' | '.join(heads)} |"]
    rows.append("|" + "---|" * (4 + len(heads)))
    for name in names:
        if not found["score"][name]:
            continue
        cells = [name, *_setting(study, name, options), str(len(found["score"][name]))]
        for metric in scored:
            mean, low, high = interval(list(found[metric][name].values()))
            cells += [f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]"]
        for metric in shown:
            groups = found[metric][name]
            mean = interval(list(groups.values()))[0] if groups else None
            cells.append("" if mean is None else f"{mean:.3f}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _setting(study: Study, name: str, options: argparse.Namespace) -> tuple[str, str]:
    """What an arm adds to its recipe, and how many candidates it was chosen from."""
    arm = next((arm for arm in study.arms if arm.name == name), None)
    if arm is None:
        return "", ""
    lines = study.lines()
    choice = chosen(study, lines, arm, options.tuning_seeds) or ()
    own = [line for line in lines if is_of(line, study.key(arm, choice), "fresh")]
    failed = sum("failed" in line for line in own)
    words = [word for word in (*arm.settings, *choice) if "{" not in word and "=null" not in word]
    said = f"`{arm.recipe}` {' '.join(words)}".strip()
    return said + (f" ({failed} runs failed)" if failed else ""), str(len(arm.grid))


def _claims(study: Study, options: argparse.Namespace) -> list[str]:
    rows = ["| claim | difference | 95 % | seeds | |", "|---|---|---|---|---|"]
    for claim in study.claims:
        pair = [
            values_of(study, name, options, claim.metric) for name in (claim.better, claim.worse)
        ]
        found = difference(*pair)
        if found is None:
            rows.append(f"| {claim.title} | not run | | | |")
            continue
        mean, low, high = found
        verdict = "holds" if low > 0 else "reversed" if high < 0 else "not established"
        count = len(pair[0].keys() & pair[1].keys())
        of = "" if claim.metric == "score" else f", {claim.metric}"
        rows.append(
            f"| {claim.title} ({claim.better} - {claim.worse}{of}) | {mean:+.3f} "
            f"| [{low:+.3f}, {high:+.3f}] | {count} | {verdict} |"
        )
    return rows
