"""docs/rewards.md: every line builds, every reward of the table is named."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from align.registry import TABLES, build

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def test_every_line_of_the_page_builds_and_no_reward_is_left_out() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines: dict[str, dict[str, object]] = yaml.safe_load(block)
    assert len(lines) == len(re.findall(r"^(?![# ]).+?:(?=\s)", block, re.MULTILINE)) > 25
    for spec in lines.values():
        build("reward", spec)
    assert {name for name in TABLES["reward"] if f"name: {name}" not in block} == set()


def test_limits_of_the_page_are_the_defaults() -> None:
    limits = build("reward", {"name": "code"}).limits  # pyright: ignore[reportAttributeAccessIssue]
    assert (limits.disk_mb, limits.memory_mb) == (64, 512)
    assert PAGE.count("64 MiB") == PAGE.count("512 MiB") == 2
