"""The closing tables of a run: one row an evaluated policy."""

from __future__ import annotations

from rich.table import Table

from align.report.summary import Point, Summary

TITLES = {"kl": "KL", "distinct_2": "dist-2"}
SECONDS = ("sample", "score", "train", "evaluate", "other")


def closing_tables(summary: Summary) -> list[Table]:
    """What each policy is worth (headline score and gain with intervals, sources, KL, length), and
    where the seconds went; each fits a terminal of 80 columns.
    """
    return [_worth(summary), _seconds(summary)]


def _worth(summary: Summary) -> Table:
    points = summary.points
    verified = any(point.mean("pass@1") is not None for point in points)
    headline = "pass@1" if verified else "score"
    parts = sorted({name for point in points for name in point.metrics if name.count("/") == 1})
    parts = [name for name in parts if name.startswith("score/")]
    parts = parts if len(parts) > 1 else []
    # A reward of 1 and -1 gains twice what pass@1 does: its unit stands above the gain.
    scores = ["score"] if verified else []
    table = _table("policy", f"{headline} [95 %]", *scores, "gain in score [95 %]")
    # Distinct bigrams tell of over-optimisation, which a verifier's reward does not invite.
    others = ["kl", "tokens", *([] if verified else ["distinct_2"])]
    for name in (*(part.removeprefix("score/") for part in parts), *others):
        table.add_column(TITLES.get(name, name), justify="right")
    for point in points:
        cells = [point.name, _ranged(point, headline)]
        if verified:
            cells.append(_number(point.mean("score")))
        cells.append(_ranged(point, "gain", sign=True))
        cells += [_number(point.mean(name)) for name in (*parts, *others)]
        table.add_row(*cells)
    return table


def _seconds(summary: Summary) -> Table:
    table = _table("seconds", *SECONDS)
    for point in summary.points:
        table.add_row(point.name, *(f"{point.seconds.get(name, 0.0):.0f}" for name in SECONDS))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _ranged(point: Point, name: str, sign: bool = False) -> str:
    bounds = point.bounds(name)
    text = _number(point.mean(name), sign)
    return (
        text
        if bounds is None
        else f"{text} [{_number(bounds[0], sign)}, {_number(bounds[1], sign)}]"
    )
