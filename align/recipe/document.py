"""A YAML file as plain values that remember their lines; stricter than YAML 1.1 where that
surprises.

`5e-7` is a number, `no` and `2024-01-01` are text, `010` is ten, a key given twice is an error, and
there are no aliases, tags or several documents: a recipe says what it means in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from align.errors import RecipeError
from align.recipe.values import is_mapping

Key: TypeAlias = tuple[str | int, ...]
"""Where a value stands: `("generate", 0, "n")`."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|[0-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")


class Loader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does, and refuses aliases."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  PyYAML's own way to replace them

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; raises `ComposerError` at an alias."""
        # These two methods have no types in PyYAML's stubs.
        if self.check_event(yaml.AliasEvent):  # pyright: ignore[reportUnknownMemberType]
            event = cast(yaml.Event, self.peek_event())  # pyright: ignore[reportUnknownMemberType]
            raise ComposerError(
                None,
                None,
                "an alias (*name) is not allowed in a recipe",
                event.start_mark,
            )
        return super().compose_node(parent, index)


for _name, _pattern, _first in (
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    # Untyped in the stubs, too.
    Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)  # pyright: ignore[reportUnknownMemberType]


@dataclass
class Document:
    """The values of a recipe, and where each was said: a line of the file, or a `--set`."""

    file: str
    value: dict[str, object]
    lines: dict[Key, int] = field(default_factory=dict)
    overridden: set[Key] = field(default_factory=set)

    def error(self, key: Key, message: str, remedy: str | None = None) -> RecipeError:
        """The located error; a key that is not there is located at the section around it."""
        name = dotted(key)
        for end in range(len(key), 0, -1):
            if key[:end] in self.overridden:
                return RecipeError(message, key=f"--set {name}", remedy=remedy)
            if key[:end] in self.lines:
                line = self.lines[key[:end]]
                return RecipeError(message, file=self.file, line=line, key=name, remedy=remedy)
        return RecipeError(message, file=self.file, line=1, key=name or None, remedy=remedy)


def dotted(key: Key) -> str:
    """`("generate", 0, "n")` -> `generate.0.n`."""
    return ".".join(str(part) for part in key)


def read_document(path: str | Path) -> Document:
    """Reads a recipe file; raises a located `RecipeError` where it is not one YAML mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", file=path, remedy="check the path") from None
    except IsADirectoryError:
        raise RecipeError("is a folder", file=path, remedy="name one YAML file in it") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"is not UTF-8 text (byte {error.start})", file=path, remedy="save it as UTF-8"
        ) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", file=path) from None
    lines: dict[Key, int] = {}
    value = parse(text, file=str(path), lines=lines)
    if value is None:
        raise RecipeError(
            "the recipe is empty", file=path, line=1, remedy="name a section, e.g. policy"
        )
    if not is_mapping(value):
        raise RecipeError(
            "a recipe is a mapping of sections", file=path, line=1, remedy="write `section: {...}`"
        )
    return Document(str(path), value, lines)


def parse(text: str, *, file: str, lines: dict[Key, int]) -> object:
    """The value of one YAML document; fills `lines` with the line of every key and item."""
    try:
        node = Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or "cannot be parsed"
        if "found another document" in f"{error.context} {error.problem}":
            raise RecipeError(
                "a second document starts here (`---`)",
                file=file,
                line=line,
                remedy="a recipe is one document: put each in a file of its own",
            ) from None
        remedy = "write the value out again" if "alias" in problem else _syntax_remedy(problem)
        raise RecipeError(f"YAML: {problem}", file=file, line=line, remedy=remedy) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            "a character here is not allowed in YAML", file=file, line=line, remedy="remove it"
        ) from None
    return None if node is None else _value_of(node, (), file, lines)


def _syntax_remedy(problem: str) -> str:
    if "\\t" in problem:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "check the indentation, and quote text that holds `: `"
    return "check indentation, brackets and quotes around this line"


def _value_of(node: yaml.Node, key: Key, file: str, lines: dict[Key, int]) -> object:
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return dict(_items_of(node, key, file, lines))
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        for index, item in enumerate(node.value):
            lines[(*key, index)] = item.start_mark.line + 1
        return [_value_of(item, (*key, i), file, lines) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, key, file)
    raise _bad_tag(node, key, file)


def _items_of(
    node: yaml.MappingNode, key: Key, file: str, lines: dict[Key, int]
) -> Iterator[tuple[str, object]]:
    for name_node, value_node in node.value:
        line = name_node.start_mark.line + 1
        name = _scalar(name_node, key, file) if isinstance(name_node, yaml.ScalarNode) else None
        if not isinstance(name, str):
            raise RecipeError(
                f"has a key that is not text ({name_node.value!r})"
                if name is not None
                else "has a key that is not text",
                file=file,
                line=line,
                key=dotted(key) or "the recipe",
                remedy="put the key in quotes",
            )
        here = (*key, name)
        if here in lines:
            raise RecipeError(
                f"is given twice, first on line {lines[here]}",
                file=file,
                line=line,
                key=dotted(here),
                remedy="keep one of them",
            )
        lines[here] = line
        yield name, _value_of(value_node, here, file, lines)


def _scalar(node: yaml.ScalarNode, key: Key, file: str) -> object:
    text = node.value
    match node.tag.removeprefix(_TAG):
        case "str":
            return text
        case "null" if _NULL.match(text):
            return None
        case "bool" if _BOOL.match(text):
            return text.lower() == "true"
        case "int" if _INT.match(text):
            digits = text.replace("_", "")
            return int(digits, 0 if "x" in digits or "o" in digits else 10)
        case "float" if _FLOAT.match(text):
            digits = text.replace("_", "").lower()
            if digits.endswith(".nan"):
                raise RecipeError(
                    "is .nan, which is no number",
                    file=file,
                    line=node.start_mark.line + 1,
                    key=dotted(key) or None,
                    remedy="give a number or remove the key",
                )
            return float(digits.replace(".inf", "inf"))
        case _:
            raise _bad_tag(node, key, file)


def _bad_tag(node: yaml.Node, key: Key, file: str) -> RecipeError:
    return RecipeError(
        f"has a YAML tag ({node.tag})",
        file=file,
        line=node.start_mark.line + 1,
        key=dotted(key) or None,
        remedy="write the plain value without the tag",
    )
