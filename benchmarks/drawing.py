"""Plots of the reproduction scripts, as PNG beside the numbers."""

from __future__ import annotations

from argparse import Namespace

import matplotlib
from comparing import START, Study, interval, values_of
from recording import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#2563eb", "#dc2626", "#059669", "#7c3aed", "#d97706", "#0891b2", "#4b5563")


def draw_arms(study: Study, options: Namespace, label: str) -> None:
    """A bar with its interval an arm, and the base's score as a line."""
    found = {arm.name: values_of(study, arm.name, options) for arm in study.arms}
    found = {name: groups for name, groups in found.items() if groups}
    if not found:
        return
    figure, axes = pyplot.subplots(figsize=(1.2 + 1.1 * len(found), 3.4), layout="constrained")
    for place, (name, groups) in enumerate(found.items()):
        mean, low, high = interval(list(groups.values()))
        colour = COLOURS[place % len(COLOURS)]
        axes.bar(name, mean, color=colour, alpha=0.85)
        axes.vlines(place, low, high, color="#1c2330")
    start = values_of(study, START, options)
    axes.axhline(interval(list(start.values()))[0], color="#667", linestyle="--", linewidth=1)
    axes.set_ylabel(label)
    axes.tick_params(axis="x", rotation=20)
    _save(figure, study)


def draw_curves(study: Study, options: Namespace, label: str, axis: str) -> None:
    """A curve a method over what stands behind its arms' `@`; 0 is the base."""
    start = list(values_of(study, START, options).values())
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for arm in study.arms:
        method, _, x = arm.name.partition("@")
        groups = list(values_of(study, arm.name, options).values())
        if groups:
            curves.setdefault(method, []).append((float(x), *interval(groups)))
    if not curves:
        return
    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    for place, (method, points) in enumerate(curves.items()):
        marks = sorted([(0.0, *interval(start)), *points])
        xs, means, lows, highs = zip(*marks, strict=True)
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(xs, means, color=colour, marker="o", markersize=3, label=method)
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15)
    axes.set_xlabel(axis)
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    _save(figure, study)


def _save(figure: pyplot.Figure, study: Study) -> None:
    figure.savefig(RESULTS / f"{study.name}.png", dpi=120)
    pyplot.close(figure)
