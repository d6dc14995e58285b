"""`--redo STAGE`: which steps are done again, decided before anything is deleted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from align.errors import InputError
from align.stages.steps import Step


@dataclass(frozen=True)
class Redo:
    """Names of steps."""

    named: frozenset[str] = frozenset()
    """Those that the user asked for: made, never taken from `run.cache`."""
    gone: frozenset[str] = frozenset()
    """Those, and all that follow from them: what reads them, directly or not, and later verdicts of
    `run.stop`, since a loop that goes on or ends otherwise was judged anew. Deleted."""


def steps_to_redo(steps: Sequence[Step], names: Sequence[str]) -> Redo:
    """What `--redo NAME ...` means for this plan.

    A name is a step's, a folder of steps, or a kind. Raises `InputError`, with the nearest names of
    steps, where it is none of them.
    """
    named = frozenset(one for name in names for one in _matches(steps, name))
    gone, is_judged_anew = set(named), False
    for step in steps:
        is_verdict = step.kind == "stop"
        reads = any(source.removeprefix("step:") in gone for source in step.inputs.values())
        if reads or (is_verdict and is_judged_anew):
            gone.add(step.name)
        is_judged_anew |= is_verdict and step.name in gone
    return Redo(named, frozenset(gone))


def _matches(steps: Sequence[Step], name: str) -> list[str]:
    wanted = name.rstrip("/")
    found = [
        step.name
        for step in steps
        if step.name == wanted or step.name.startswith(f"{wanted}/") or step.kind == wanted
    ]
    if not found:
        raise InputError(f"--redo {name}: this recipe has no such step; {_hint(steps, wanted)}")
    return found


def _hint(steps: Sequence[Step], wanted: str) -> str:
    """Steps that hold the words of the name, else those that look like it, else all."""
    names = [step.name for step in steps]
    near = [one for one in names if f"/{wanted}/" in f"/{one}/"] or [
        one for one in names if wanted in one
    ]
    if not near:
        parts = {part for one in names for part in (one, *one.split("/"))}
        close = difflib.get_close_matches(wanted, parts, 1)
        near = [one for one in names if close and f"/{close[0]}/" in f"/{one}/"]
    if not near:
        return f"it has {', '.join(names)}"
    return f"did you mean {' or '.join(near)}?"
