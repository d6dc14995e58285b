"""The live line of `align run`."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from align.progress import State
from align.report.screen import RichScreen
from align.stages.steps import Step


@pytest.mark.parametrize("width", [80, 200])
def test_the_bar_shows_tokens_a_second_and_time_left_on_any_screen(width: int) -> None:
    """Two steps that share an engine have long names; 18,000 of 20,000 prompts are left."""
    shown = io.StringIO()
    screen = RichScreen(Console(file=shown, force_terminal=True, width=width, color_system=None))
    steps = [Step("iter-000/eval/samples", "generate"), Step("iter-001/samples", "generate")]
    screen.started(steps, ())
    for done in (1000, 2000):
        state = State("sampling", done, 20000, "prompts", tokens_per_second=3423.4)
        screen.progress(steps, state)
    screen.failed(steps)  # the last frame is drawn before the bar goes
    frame = shown.getvalue().split("\r")[-2]
    assert re.search(r"samples \+1 s.* 2,000/20,000  \d:\d\d:\d\d left  3,423 tokens/s", frame)
