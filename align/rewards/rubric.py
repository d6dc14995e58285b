"""The question that a judge is asked: a Jinja template, checked when the recipe is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ConfigDict

from align.errors import DataError
from align.records import Json, Prompt, canonical_json

FOLDER = Path(__file__).parent / "rubrics"


@dataclass(frozen=True)
class Rubric:
    """A Jinja template for one user message, and how the verdict is found in the answer. The
    default asks for reasons, then a verdict in double square brackets.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str | None = None
    """File that holds the template."""
    text: str | None = None
    """Or the template itself."""
    verdict: str | None = None
    r"""Regular expression whose one group is the verdict, e.g. `Score: (\d+)`. Where it matches
    more than once, all matches must say the same."""

    def __post_init__(self) -> None:
        if self.path is not None and self.text is not None:
            raise ValueError("rubric takes path or text, not both")
        if self.verdict is None:
            return
        try:
            groups = re.compile(self.verdict).groups
        except re.error as error:
            raise ValueError(f"rubric.verdict is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"rubric.verdict needs one group in parentheses, not {groups}")

    def is_there(self) -> bool:
        """False where the file is missing, which the check of paths reports."""
        return self.path is None or Path(self.path).expanduser().is_file()

    def source(self, default: str) -> str:
        """The template's text; `default` names one of ours."""
        if self.text is not None:
            return self.text
        path = FOLDER / f"{default}.jinja" if self.path is None else Path(self.path).expanduser()
        return path.read_text(encoding="utf-8")


class Question:
    """A template that uses none but known names, and shows what is judged."""

    def __init__(self, source: str, allowed: Sequence[str], required: Sequence[str]) -> None:
        # Sandboxed: a template renders, it does not reach into Python.
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, finalize=_present, trim_blocks=True, lstrip_blocks=True
        )
        try:
            used = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"the rubric is no Jinja template: {error}") from error
        for name in sorted(used - {*allowed}):
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"it may use {', '.join(allowed)}"
            raise ValueError(f"the rubric uses {{{{ {name} }}}}, which nothing fills; {hint}")
        for name in required:
            if name not in used:
                raise ValueError(f"the rubric never shows {{{{ {name} }}}}, which is to be judged")

    def write(self, values: Mapping[str, object]) -> str | None:
        """The message, or None where it shows a value that there is not. Raises `DataError` where
        the template cannot be rendered.
        """
        try:
            return self._template.render(values)
        except _Missing:
            return None
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"the rubric cannot be rendered: {error}") from error


class _Missing(Exception):
    """A value is shown that this prompt does not have."""


def conversation(prompt: Prompt) -> str:
    """A prompt as one text: its only turn's content, or each turn after its role."""
    turns = [(str(turn.get("role")), _text(turn.get("content"))) for turn in prompt.messages]
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role}: {content}" for role, content in turns)


def reference(prompt: Prompt) -> str | None:
    """Its answer as text."""
    return None if prompt.answer is None else _text(prompt.answer)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _present(value: object) -> object:
    if value is None:
        raise _Missing
    return value
