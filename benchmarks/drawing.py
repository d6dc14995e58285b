"""Plots of the reproduction scripts, as PNG beside the numbers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

import matplotlib
import numpy as np
from comparing import START, Study, interval, values_of
from recording import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

COLOURS = ("#2563eb", "#dc2626", "#059669", "#7c3aed", "#d97706", "#0891b2", "#4b5563")
Panels = Mapping[str, str]
"""Metric -> its axis' label; one panel each, side by side."""


def draw_arms(study: Study, options: Namespace, panels: Panels) -> None:
    """A point with its interval an arm, and the base's value as a line."""
    names = [arm.name for arm in study.arms if values_of(study, arm.name, options)]
    if not names:
        return
    size = (0.9 + 0.75 * len(names)) * len(panels) + 0.6, 3.4
    figure, places = pyplot.subplots(
        1, len(panels), figsize=size, layout="constrained", squeeze=False
    )
    for axes, (metric, label) in zip(places[0], panels.items(), strict=True):
        for place, name in enumerate(names):
            groups = _groups(study, name, options, metric)
            if groups:
                mean, low, high = interval(groups)
                colour = COLOURS[place % len(COLOURS)]
                axes.vlines(place, low, high, color=colour, linewidth=2)
                axes.plot(place, mean, "o", color=colour, markersize=7)
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=9)
        axes.set_xlim(-0.6, len(names) - 0.4)
        _base_line(axes, study, options, metric)
        axes.set_ylabel(label)
    _save(figure, study)


def draw_curves(study: Study, options: Namespace, panels: Panels, axis: str) -> None:
    """A curve a method over what stands behind its arms' `@`; the base is a line."""
    methods: dict[str, list[tuple[float, str]]] = {}
    for arm in study.arms:
        method, at, x = arm.name.rpartition("@")
        if at and values_of(study, arm.name, options):
            methods.setdefault(method, []).append((float(x), arm.name))
    if not methods:
        return
    figure, places = pyplot.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.4), layout="constrained", squeeze=False
    )
    for axes, (metric, label) in zip(places[0], panels.items(), strict=True):
        for place, (method, arms) in enumerate(methods.items()):
            marks = [
                (x, *interval(groups))
                for x, name in sorted(arms)
                if (groups := _groups(study, name, options, metric))
            ]
            if not marks:
                continue
            xs, means, lows, highs = zip(*marks, strict=True)
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(xs, means, color=colour, marker="o", markersize=4, label=method)
            axes.fill_between(xs, lows, highs, color=colour, alpha=0.15)
        _base_line(axes, study, options, metric)
        axes.set_xlabel(axis)
        axes.set_ylabel(label)
        if max(map(len, methods.values())) > 2 and axis.startswith("epochs"):
            # each point is twice the one before
            ticks = sorted({x for arms in methods.values() for x, _ in arms})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        if metric == "kl" and axes.get_ylim()[1] > 20:
            axes.set_yscale("symlog", linthresh=1)
            axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
            axes.set_ylim(bottom=0)
    places[0][0].legend(frameon=False)
    _save(figure, study)


def _groups(study: Study, name: str, options: Namespace, metric: str) -> list[list[float]]:
    """By seed. Of a learned reward the gain: each seed has its own model, with its own zero."""
    found = values_of(study, name, options, metric)
    if metric != "proxy":
        return list(found.values())
    start = values_of(study, START, options, metric)
    return [list(np.subtract(values, start[seed])) for seed, values in found.items()]


def _base_line(axes: Axes, study: Study, options: Namespace, metric: str) -> None:
    start = _groups(study, START, options, metric)
    if start:
        mean = interval(start)[0]
        axes.axhline(mean, color="#667", linestyle="--", linewidth=1)
        right = axes.get_yaxis_transform()
        axes.text(1.01, mean, "base", transform=right, va="center", fontsize=8, color="#667")


def _save(figure: pyplot.Figure, study: Study) -> None:
    figure.savefig(RESULTS / f"{study.name}.png", dpi=120)
    pyplot.close(figure)
