"""Where a step of a run came from: the steps that it read, and those that they read, back to the
recipe and to weights and data from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from align.records import Json
from align.report.summary import Summary
from align.stages.manifest import Manifest, read_manifest
from align.stages.steps import Step


def lineage(summary: Summary, name: str) -> list[str]:
    """Lines of a tree, each step once: what made it, when, with which content and key."""
    steps = {step.name: step for step, _ in summary.steps}
    if name not in steps:
        return []
    lines: list[str] = []
    _follow(summary.out, steps, name, "", "", set(), lines)
    lines.append(f"recipe {summary.out / 'recipe.yaml'}")
    return lines


def _follow(
    out: Path,
    steps: Mapping[str, Step],
    name: str,
    indent: str,
    role: str,
    seen: set[str],
    lines: list[str],
) -> None:
    manifest = read_manifest(out / name)
    if name in seen:
        lines.append(f"{indent}{role}{name} (above)")
        return
    seen.add(name)
    lines.append(f"{indent}{role}{name} {_facts(manifest)}")
    deeper = f"{indent}  "
    for each, source in steps[name].inputs.items():
        kind, _, what = source.partition(":")
        if kind == "step":
            _follow(out, steps, what, deeper, f"{each}: ", seen, lines)
        elif manifest is not None:
            content = cast("Mapping[str, Json]", manifest.key.get("inputs", {})).get(each)
            lines.append(f"{deeper}{each}: {what}, content {content}")
    files = cast("Mapping[str, Json]", manifest.key.get("files", {}) if manifest else {})
    lines += [f"{deeper}file: {path}, content {content}" for path, content in files.items()]


def _facts(manifest: Manifest | None) -> str:
    if manifest is None:
        return "(not finished)"
    versions = cast("Mapping[str, Json]", manifest.key.get("versions", {}))
    with_what = "".join(f", {name} {version}" for name, version in versions.items())
    origin = f", from the cache, made by: {manifest.command}" if manifest.from_cache else ""
    made = f"{manifest.kind}, {manifest.finished}, content {manifest.content[:12]}"
    return f"({made}{with_what}{origin})"
