"""Every error a user can meet, one root class, each with the exit status that the command line
returns.

Adding one: subclass the category that decides the exit status (2: found before weights are loaded;
3: a stage failed) and write the message as "what was wrong, where, what was expected, what to do".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class AlignError(Exception):
    """Root of all errors raised on purpose; `exit_status` is what `align` returns to the shell."""

    exit_status = 3


class InputError(AlignError, ValueError):
    """The recipe, the data or the environment is wrong; found before any weights are loaded."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe is wrong at one place: `file:line: key message; remedy`.

    A message goes on where the key ends ("is not a known reward"); one that is a sentence of its
    own begins with a colon.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message.removeprefix(": ")
        self.file, self.line, self.key, self.remedy = file, line, key, remedy
        place = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        is_sentence = message != self.message
        name = "" if key is None else f"{key}: " if is_sentence else f"{key} "
        super().__init__(f"{place}{name}{self.message}" + (f"; {remedy}" if remedy else ""))

    @property
    def errors(self) -> tuple[RecipeError, ...]:
        """All that is wrong with the recipe, in the order of its lines; this error is the first."""
        return (self,)


class RecipeErrors(RecipeError):
    """Several errors of one recipe: one a line; place, key and remedy are those of the first."""

    def __init__(self, errors: Sequence[RecipeError]) -> None:
        first = errors[0]
        super().__init__(
            first.message, file=first.file, line=first.line, key=first.key, remedy=first.remedy
        )
        self._errors = tuple(errors)

    @property
    def errors(self) -> tuple[RecipeError, ...]:
        """Each of them."""
        return self._errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self._errors)


class DataError(InputError):
    """A data file, column or row cannot be used; the message names file, row and remedy."""


class SetupError(InputError):
    """The environment lacks something or is not what was asked for (a package, a device, a file
    lock).
    """


class InputsChanged(InputError):
    """A finished stage was made from other inputs; names the changed key and both remedies."""


class StageError(AlignError, RuntimeError):
    """A stage failed; one line of cause and, where there is one, the path of the log."""

    def __init__(self, message: str, *, log: Path | None = None) -> None:
        self.log = log
        super().__init__(f"{message} (log: {log})" if log else message)


class LaunchMismatch(StageError):
    """The processes that run are not the ones that were asked for (I6)."""


class NumericsError(StageError):
    """An invariant of the numbers was broken: NaN loss, stale sampler, step-0 ratio not 1."""
