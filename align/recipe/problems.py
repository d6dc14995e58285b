"""What pydantic found wrong, as plain words with a remedy: one problem a place, unions resolved to
the branch meant.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from align.errors import RecipeError
from align.recipe.document import Key, dotted
from align.recipe.values import is_any_mapping, is_collection

_NOT_THIS_BRANCH = {"model_type", "dataclass_type", "list_type", "tuple_type", "dict_type"}
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True)
class Problem:
    """Something wrong at a key, not yet located in a file."""

    key: Key
    message: str
    remedy: str | None = None


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that looks most like `name`, or None."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    wanted = name.lower()
    found = difflib.get_close_matches(wanted, by_lower, n=1, cutoff=0.8)
    # A word of a longer name (`top` of `top_p`) is meant more often than another short name.
    found += [candidate for candidate in by_lower if wanted in candidate.split("_")]
    found += difflib.get_close_matches(wanted, by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def suggest(name: str, valid: Iterable[str], *, what: str = "valid keys") -> str:
    """`did you mean "beta"?`, or the list of what is valid."""
    valid = sorted(valid)
    near = nearest(name, valid)
    if near is not None:
        return f'did you mean "{near}"?'
    return f"{what}: {', '.join(valid)}" if valid else "remove it"


def explain(error: ValidationError, value: object, root: type) -> list[Problem]:
    """The problems in `value`, which was validated against `root` (a section or a plug-in's config
    class).
    """
    branches: dict[Key, list[tuple[Key, ErrorDetails]]] = {}
    plain: list[tuple[Key, ErrorDetails]] = []
    for detail in error.errors(include_url=False):
        key, union = _real_key(detail, value)
        if union is None:
            plain.append((key, detail))
        else:
            branches.setdefault(union, []).append((key, detail))
    problems = [_problem(key, detail, root) for key, detail in plain]
    for union, details in branches.items():
        inner = [
            (key, detail) for key, detail in details if not _is_other_branch(key, detail, union)
        ]
        # Errors inside the branch that the value's shape picked say more than "not the other".
        if inner:
            problems += [_problem(key, detail, root) for key, detail in inner]
        else:
            problems.append(_union_problem(union, [detail for _, detail in details], root))
    return problems


def _real_key(detail: ErrorDetails, value: object) -> tuple[Key, Key | None]:
    """The location without pydantic's names of union branches, and the key of the innermost union,
    if any.
    """
    key: Key = ()
    union: Key | None = None
    here: object = value
    location = detail["loc"]
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        if is_any_mapping(here) and part in here:
            here = here[part]
        elif is_collection(here) and isinstance(part, int):
            here = tuple(here)[part] if part < len(here) else None
        elif not (is_last and detail["type"] in ("missing", "missing_argument")):
            union = key
            continue
        key = (*key, part)
    return key, union


def _is_other_branch(key: Key, detail: ErrorDetails, union: Key) -> bool:
    """True where the error only says that the value is not this branch of the union at all."""
    if key != union:
        return False
    kind = detail["type"]
    mapping_or_list = isinstance(detail["input"], (Mapping, list))
    in_bounds = kind in _BOUNDS
    return not in_bounds and (kind in _WANTED or kind == "literal_error" or not mapping_or_list)


def _union_problem(key: Key, details: list[ErrorDetails], root: type) -> Problem:
    """One problem for a value that no branch of the union takes: names all that would be right."""
    given = details[0]["input"]
    wanted: list[str] = []
    literals: list[str] = []
    for detail in details:
        if detail["type"] == "literal_error":
            literals += _literals(detail)
        else:
            wanted.append(_WANTED.get(detail["type"], detail["msg"]))
    choices = [*_quoted(literals), *dict.fromkeys(wanted)]
    message = f"must be {_or(choices)}, not {describe(given)}"
    remedy = _shorthand(given, wanted, _keys_at(root, key)) or _value_remedy(
        given, literals, wanted
    )
    return Problem(key, message, remedy)


def _problem(key: Key, detail: ErrorDetails, root: type) -> Problem:
    kind, given = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind in ("missing", "missing_argument"):
        parent = dotted(key[:-1])
        return Problem(key, "is required", f'add "{key[-1]}"' + (f" to {parent}" if parent else ""))
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        section = dotted(key[:-1]) or "a recipe"
        valid = _keys_at(root, detail["loc"][:-1])
        return Problem(key, f"is not a key of {section}", suggest(str(key[-1]), valid))
    if kind == "literal_error":
        literals = _literals(detail)
        message = f"must be {_or(_quoted(literals))}, not {describe(given)}"
        return Problem(key, message, _value_remedy(given, literals, []))
    if kind in ("too_short", "too_long"):
        words, name = (
            ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        )
        size = context.get(name)
        message = f"holds {context.get('actual_length')} items, and {words} {size} are needed"
        return Problem(
            key, message, "add to the list" if kind == "too_short" else "shorten the list"
        )
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return Problem(
            key, f"must be {words} {context.get(name)}, not {describe(given)}", "change the value"
        )
    if kind in _WANTED:
        wanted = [_WANTED[kind]]
        remedy = _shorthand(given, wanted, _keys_at(root, key)) or _value_remedy(given, [], wanted)
        return Problem(key, f"must be {wanted[0]}, not {describe(given)}", remedy)
    if kind == "value_error":
        error = context.get("error", detail["msg"])
        if isinstance(error, RecipeError) and error.key is not None:
            return Problem((*key, *error.key.split(".")), error.message, error.remedy)
        # what a plug-in says of its options is a sentence of its own
        return Problem(key, f": {error}", None)
    return Problem(key, f"is wrong ({detail['msg']})", None)


def _value_remedy(given: object, literals: Sequence[str], wanted: Sequence[str]) -> str:
    if isinstance(given, str) and literals and (near := nearest(given, literals)):
        return f'did you mean "{near}"?'
    if isinstance(given, str) and any("number" in each for each in wanted) and _is_number(given):
        return "write it without quotes"
    if "text" in wanted and isinstance(given, (bool, int, float)):
        return "put it in quotes"
    if given is None:
        return "give a value or remove the key"
    if "a list" in wanted and not isinstance(given, (list, dict)):
        return f"write [{given}]"
    return "change the value"


def _shorthand(given: object, wanted: Sequence[str], valid: set[str]) -> str | None:
    """`exact_match` where `{name: exact_match}` was meant."""
    if "a mapping" not in wanted or not isinstance(given, str):
        return None
    return next((f"write {{{name}: {given}}}" for name in ("path", "name") if name in valid), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def describe(value: object) -> str:
    """A value in words, short enough for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'the text "{value if len(value) <= 40 else value[:37] + "..."}"'
    if isinstance(value, (int, float)):
        return f"{value}"
    return (
        "a mapping"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, list)
        else repr(value)
    )


def _literals(detail: ErrorDetails) -> list[str]:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def _quoted(words: Sequence[str]) -> list[str]:
    return [f'"{word}"' for word in words]


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def classes_in(annotation: object) -> list[type[object]]:
    """The sections and config classes inside an annotation: in unions, lists and `Annotated`."""
    if isinstance(annotation, type):
        found = cast(type[object], annotation)
        return [found] if issubclass(found, BaseModel) or is_dataclass(found) else []
    if get_origin(annotation) in (Annotated, Union, types.UnionType, list, tuple, dict):
        return [found for part in get_args(annotation) for found in classes_in(part)]
    return []


def keys_of(section: type[object]) -> dict[str, object]:
    """Name -> annotation of what may stand in a section or a config class."""
    if issubclass(section, BaseModel):
        return {name: info.annotation for name, info in section.model_fields.items()}
    if not is_dataclass(section):
        return {}
    hints = get_type_hints(section)
    return {field.name: hints[field.name] for field in fields(section) if field.init}


def _keys_at(root: type, location: Sequence[str | int]) -> set[str]:
    candidates = [root]
    for part in location:
        if isinstance(part, int):
            continue
        below = [
            found
            for section in candidates
            if part in keys_of(section)
            for found in classes_in(keys_of(section)[part])
        ]
        # A name that is no key is pydantic's name of a union branch.
        named = [
            c
            for c in candidates
            if part.lower() in (c.__name__.lower(), f"list[{c.__name__.lower()}]")
        ]
        candidates = below or named or candidates
    return {name for section in candidates for name in keys_of(section)}
