"""Programming languages that the `code` reward can run: where a program begins in a completion, and
how it is compiled and started (the few lines a language of Agnostics, ALGORITHMS 12.14).
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, MinLen
from pydantic import ConfigDict

FENCE = re.compile(r"[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<label>[\w+#.-]*)")


@dataclass(frozen=True)
class Language:
    """One language. Commands run in an empty folder that holds `file` alone."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    file: str
    """What the program is saved as, e.g. `main.lua`."""
    run: Annotated[tuple[str, ...], MinLen(1)]
    """The command, e.g. `[lua, main.lua]`."""
    compile: tuple[str, ...] = ()
    """The command before the first run; a status other than 0 is a wrong program."""
    compile_seconds: Annotated[float, Gt(0)] = 20.0
    """Processor time."""
    fences: tuple[str, ...] = ()
    """Labels of a fenced block beside `name`, e.g. `js`."""
    mounts: tuple[str, ...] = ()
    """Folders outside /usr that the language needs, shown read-only, e.g. `/opt/julia`."""
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """Where commands are looked up."""
    example: str = ""
    """A program that copies its input to its output; it is run when the reward opens, which refuses
    if it fails."""

    def __post_init__(self) -> None:
        relative = [path for path in self.mounts if not path.startswith("/")]
        if relative:
            raise ValueError(f"mounts must be absolute paths, not {', '.join(relative)}")
        if "/" in self.file:
            raise ValueError(f"file = {self.file!r} must be a name without folders")

    def find_program(self, text: str) -> str | None:
        """The last fenced block with this language's label, else the last without a label, else
        None.

        A block that is not closed was cut off and does not count.
        """
        labels = {self.name.lower(), *(label.lower() for label in self.fences)}
        blocks = [(label.lower(), body) for label, body in blocks_of(text)]
        own = [body for label, body in blocks if label in labels]
        plain = [body for label, body in blocks if not label]
        return next(iter(own[-1:] or plain[-1:]), None)


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Label and content of each closed fenced block."""
    found: list[tuple[str, str]] = []
    mark, label, body = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        fence = FENCE.match(line)
        if mark and fence and fence["mark"] == mark and not line[fence.end("mark") :].strip():
            found.append((label, "".join(body)))
            mark = ""
        elif mark:
            body.append(line)
        elif fence:
            mark, label, body = fence["mark"], fence["label"], []
    return found


PYTHON = os.path.realpath(sys.executable)

BUILT_IN = {
    "python": Language(
        name="python",
        file="main.py",
        run=(PYTHON, "-I", "main.py"),
        fences=("py", "python3"),
        mounts=(sys.base_prefix,),
        example="import sys\nsys.stdout.write(sys.stdin.read())\n",
    ),
    "c": Language(
        name="c",
        file="main.c",
        compile=("gcc", "-O2", "-o", "main", "main.c", "-lm"),
        run=("./main",),
        example="#include <stdio.h>\n"
        "int main(void) { int c; while ((c = getchar()) != EOF) putchar(c); return 0; }\n",
    ),
    "cpp": Language(
        name="cpp",
        file="main.cpp",
        compile=("g++", "-O2", "-o", "main", "main.cpp"),
        run=("./main",),
        fences=("c++", "cc", "cxx"),
        example="#include <iostream>\nint main() { std::cout << std::cin.rdbuf(); }\n",
    ),
}
"""Languages that need no configuration; python is the interpreter that `align` runs on, without its
packages."""
