"""What `align run` and the report warn of, from the numbers of finished steps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from rich.console import Console

from align.records import Json
from align.report.alarms import alarms
from align.report.screen import RichScreen
from align.stages.manifest import Manifest
from align.stages.step import Kind, Step


def _made(
    name: str, kind: Kind, counts: Mapping[str, int], metrics: Mapping[str, Json]
) -> tuple[Step, Manifest]:
    return Step(name, kind), Manifest(name, kind, {}, "c0ffee", counts, metrics, 1.0, "2026")


@pytest.mark.parametrize(
    ("name", "kind", "counts", "metrics", "says"),
    [
        ("iter-000/samples", "generate", {"samples": 8, "truncated": 4}, {}, None),
        ("iter-000/samples", "generate", {"samples": 8, "truncated": 5}, {}, "5 of 8 completions"),
        ("iter-000/samples", "generate", {"samples": 0, "truncated": 0}, {}, None),
        ("iter-000/scores", "score", {"scores": 8, "groups": 2, "all_equal_groups": 1}, {}, None),
        (
            "iter-000/scores",
            "score",
            {"scores": 8, "groups": 2, "all_equal_groups": 2},
            {},
            "each of 2 prompts all score the same",
        ),
        ("start/eval/scores", "score", {"scores": 8, "groups": 2, "all_equal_groups": 2}, {}, None),
        ("iter-000/scores", "score", {"scores": 8, "failed": 5, "groups": 2}, {}, "5 of 8 samples"),
        ("iter-000/checkpoint", "policy", {}, {}, None),
        ("iter-000/checkpoint", "policy", {}, {"advantage/positive_share": 0.01}, None),
        (
            "iter-000/checkpoint",
            "policy",
            {},
            {"advantage/positive_share": 0.0},
            "no sample has a positive advantage",
        ),
    ],
)
def test_odd_numbers_are_told(
    name: str, kind: Kind, counts: Mapping[str, int], metrics: Mapping[str, Json], says: str | None
) -> None:
    found = alarms(*_made(name, kind, counts, metrics))
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


def test_the_screen_warns_below_the_finished_step() -> None:
    console = Console(record=True, width=200)
    made = _made("iter-000/samples", "generate", {"samples": 4, "truncated": 4}, {})
    RichScreen(console).finished(*made)
    done, warning = console.export_text().splitlines()
    assert done.startswith("done iter-000/samples")
    assert warning.startswith("warning iter-000/samples: 4 of 4 completions were cut at the length")
