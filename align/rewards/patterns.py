"""Regular expressions given in a recipe: compiled early, and what they extract from a text."""

from __future__ import annotations

import re

from align.errors import RecipeError


def compile_pattern(pattern: str, key: str) -> re.Pattern[str]:
    """The compiled pattern (`.` also matches newlines); `RecipeError` naming `key` where it is not
    a valid one.
    """
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RecipeError(
            f"is not a regular expression: {error}",
            key=key,
            remedy="see the documentation of Python's re module",
        ) from error


def check_patterns(**patterns: str | None) -> None:
    """Compiles the options that are given, so that a recipe is refused when it is read."""
    for key, pattern in patterns.items():
        if pattern is not None:
            compile_pattern(pattern, key)


def extract_last(pattern: re.Pattern[str], text: str) -> str | None:
    r"""The last match's first group (the whole match where the pattern has no group), or None.

    Models restate their answer, so the last one counts: `#### (\d+)` on `"#### 3 ... #### 4"` ->
    `"4"`.
    """
    matches = list(pattern.finditer(text))
    if not matches:
        return None
    return matches[-1].group(1) if pattern.groups else matches[-1].group(0)
