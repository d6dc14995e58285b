"""Small charts as inline SVG: a line with interval whiskers, curves over steps, and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#2563eb", "#dc2626", "#059669", "#7c3aed")
WIDTH, HEIGHT = 330, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 28, 26

Mark = tuple[str, float, tuple[float, float] | None]
"""Name on the x axis, value, and its interval where it has one."""


def line_chart(title: str, marks: Sequence[Mark]) -> str:
    """An `<svg>` of the marks in order; the y axis covers all intervals."""
    low, high = _padded([v for _, mean, bounds in marks for v in (mean, *(bounds or ()))])

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / len(marks)

    def y(value: float) -> float:
        return _height(value, low, high)

    parts = _grid(title, low, high)
    line = " ".join(f"{x(i):.1f},{y(mean):.1f}" for i, (_, mean, _) in enumerate(marks))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>')
    for i, (name, mean, bounds) in enumerate(marks):
        if bounds:
            parts.append(
                f'<line x1="{x(i):.1f}" x2="{x(i):.1f}" y1="{y(bounds[0]):.1f}" '
                f'y2="{y(bounds[1]):.1f}" '
                'stroke="#2563eb" stroke-width="1.5" opacity=".5"/>'
            )
        parts.append(f'<circle cx="{x(i):.1f}" cy="{y(mean):.1f}" r="3.5" fill="#2563eb"/>')
        parts.append(
            f'<text x="{x(i):.1f}" y="{HEIGHT - 8}" text-anchor="middle" '
            f'fill="#667">{escape(name)}</text>'
        )
    return _svg(title, parts)


def curve_chart(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """An `<svg>` of (x, y) curves by name, with a legend."""
    points = [point for curve in curves.values() for point in curve]
    low, high = _padded([y for _, y in points])
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    parts = _grid(title, low, high)
    for place, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[place % len(COLOURS)]
        line = " ".join(
            f"{LEFT + (WIDTH - LEFT - RIGHT) * (x - first) / ((last - first) or 1):.1f},"
            f"{_height(y, low, high):.1f}"
            for x, y in curve
        )
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        parts += _legend(name, place, len(curves))
    for x, anchor, value in ((LEFT, "start", first), (WIDTH - RIGHT, "end", last)):
        parts.append(
            f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}" fill="#667">{value:g}</text>'
        )
    return _svg(title, parts)


def bar_chart(title: str, names: Sequence[str], bars: Mapping[str, Sequence[float]]) -> str:
    """An `<svg>` of bars from 0, one of each series beside another at every name."""
    high = max((value for values in bars.values() for value in values), default=0.0) * 1.08 or 1.0
    parts = _grid(title, 0.0, high)
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(names))
    width = slot * 0.8 / max(1, len(bars))
    for place, (series, values) in enumerate(bars.items()):
        for i, value in enumerate(values):
            top = _height(value, 0.0, high)
            parts.append(
                f'<rect x="{LEFT + slot * (i + 0.1) + width * place:.1f}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{HEIGHT - BOTTOM - top:.1f}" '
                f'fill="{COLOURS[place % len(COLOURS)]}"/>'
            )
        parts += _legend(series, place, len(bars))
    for i, name in enumerate(names):
        parts.append(
            f'<text x="{LEFT + slot * (i + 0.5):.1f}" y="{HEIGHT - 8}" text-anchor="middle" '
            f'font-size="9" fill="#667">{escape(name)}</text>'
        )
    return _svg(title, parts)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def _height(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def _grid(title: str, low: float, high: float) -> list[str]:
    """The title, and four lines with their values."""
    parts = [f'<text x="{LEFT}" y="16" font-weight="600">{escape(title)}</text>']
    for i in range(4):
        value = low + (high - low) * i / 3
        y = _height(value, low, high)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="#e4e7ec"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" '
            f'fill="#667">{value:.3g}</text>'
        )
    return parts


def _legend(name: str, place: int, count: int) -> list[str]:
    """The name in the colour of its curve, where there is more than one."""
    if count < 2:
        return []
    colour = COLOURS[place % len(COLOURS)]
    return [
        f'<text x="{WIDTH - RIGHT}" y="{TOP + 8 + 13 * place}" text-anchor="end" '
        f'fill="{colour}">{escape(name)}</text>'
    ]


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-size="11" font-family="system-ui,sans-serif" '
        'fill="#1c2330">'
        f"{''.join(parts)}</svg>"
    )
