"""`--set a.b=c`: one value of the recipe replaced, located as such when it is wrong."""

from __future__ import annotations

from align.errors import RecipeError
from align.recipe.document import Document, Key, dotted, parse
from align.recipe.values import is_list, is_mapping


def apply_override(document: Document, text: str) -> None:
    """Replaces or adds the value that `text` (`train.objective.beta=0.2`) names; list items go by
    number.

    The value is read as YAML, so `[1, 2]` and `{ema: 0.9}` work and an empty one is null. Sections
    on the way that are absent are made. Raises `RecipeError` with the key `--set ...`.
    """
    name, equals, value_text = text.partition("=")
    if not equals or not name:
        raise RecipeError("has no value", key=f"--set {text}", remedy="write --set key=value")
    place = f"--set {name}"
    try:
        value = parse(value_text, file=place, lines={})
    except RecipeError as error:
        raise RecipeError(
            f"has a value that is not YAML ({error.message})", key=place, remedy="quote it"
        ) from None
    parts = name.split(".")
    if not all(parts):
        raise RecipeError("is not a key", key=place, remedy="write the key as section.option")
    holder: object = document.value
    path: Key = ()
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        step = _step(holder, part, path, parts, place)
        path = (*path, step)
        if following is None:
            _forget(document, path)
            document.overridden.add(path)
            _store(holder, step, value)
            return
        inner = _child(holder, step)
        if inner is None:
            inner = dict[str, object]()
            document.overridden.add(path)
            _store(holder, step, inner)
        holder = inner


def _step(holder: object, part: str, path: Key, parts: list[str], place: str) -> str | int:
    """`part` as the key or index it is in `holder`."""
    if is_mapping(holder):
        numbered = part.isdigit() and path and part not in holder and "name" in holder
        if numbered:
            without = ".".join([*map(str, path), *parts[len(path) + 1 :]])
            raise RecipeError(
                f"counts items, but {dotted(path)} is one mapping",
                key=place,
                remedy=f"write --set {without}=...",
            )
        return part
    if is_list(holder):
        if not part.isdigit():
            first = ".".join([*map(str, path), "0", *parts[len(path) :]])
            raise RecipeError(
                f"needs a number after {dotted(path)}, which is a list",
                key=place,
                remedy=f"write --set {first}=...",
            )
        if int(part) >= len(holder):
            raise RecipeError(
                f"is beyond the end of {dotted(path)}, which has {len(holder)} items",
                key=place,
                remedy=f"the last is {len(holder) - 1}; for all: --set {dotted(path)}='[...]'",
            )
        return int(part)
    raise RecipeError(
        f"goes into {dotted(path)}, which is a single value",
        key=place,
        remedy=f"replace all of it: --set {dotted(path)}='{{{part}: ...}}'",
    )


def _child(holder: object, step: str | int) -> object:
    if is_mapping(holder) and isinstance(step, str):
        return holder.get(step)
    return holder[step] if is_list(holder) and isinstance(step, int) else None


def _store(holder: object, step: str | int, value: object) -> None:
    if is_mapping(holder):
        holder[str(step)] = value
    elif is_list(holder) and isinstance(step, int):
        holder[step] = value


def _forget(document: Document, path: Key) -> None:
    """The lines of what is replaced no longer say where the value comes from."""
    depth = len(path)
    document.lines = {key: line for key, line in document.lines.items() if key[:depth] != path}
    document.overridden = {key for key in document.overridden if key[:depth] != path}
