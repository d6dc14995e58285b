"""The console that commands print on."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_COLUMNS = 120
"""A pipe or a log has no width of its own."""


def make_console() -> Console:
    """As wide as the terminal, or `PIPE_COLUMNS` where standard output is none."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
