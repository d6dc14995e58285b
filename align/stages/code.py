"""The code from outside the tree that a step names: a hash of its source, found without running it.

`my_pkg.MyRule` may stand in `my_pkg/__init__.py` or only be imported there, and call what other
files hold. So the named module counts, and what it imports of its own package or from beside it.
Installed packages that it uses do not.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from align.records import Json

_KEYS = ("name", "function", "score")
"""Under which a section names code: a plug-in, the function of a `python` reward, `sft.stop`."""


def code_hashes(section: Mapping[str, Json]) -> dict[str, Json]:
    """Dotted name -> hash of the files behind it, for every name in a step's section whose module
    is found.

    Our own modules are left out: a change of theirs that matters raises `KEY_FORMAT`.
    """
    files = {name: _files(name) for name in sorted(set(_dotted_names(section)))}
    return {name: _hash(found) for name, found in files.items() if found}


def _dotted_names(value: Json) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            if key in _KEYS and isinstance(child, str) and "." in child.replace(":", "."):
                yield child
            else:
                yield from _dotted_names(child)
    elif isinstance(value, list):
        for child in value:
            yield from _dotted_names(child)


def _files(name: str) -> dict[str, Path]:
    """Module -> source file: the module of `package.module.Thing` and all that it imports from the
    same place.
    """
    module = name.replace(":", ".").rpartition(".")[0]
    top = module.partition(".")[0]
    if top == "align" or not module.replace(".", "").isidentifier():
        return {}
    spec = _top_spec(top)
    if spec is None:
        return {}
    beside = _folder_of(spec)
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        for one in _with_parents(waiting.pop()):
            if one in found or one.partition(".")[0] == "align":
                continue
            file = _source(one, spec if one.partition(".")[0] == top else None, beside)
            if file is not None:
                found[one] = file
                waiting += _imports(file, one)
    return found


def _with_parents(module: str) -> list[str]:
    """`a.b` -> `a`, `a.b`: importing the latter runs the former."""
    words = module.split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def _top_spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except ValueError:  # `__main__` has none
        return None


def _folder_of(spec: ModuleSpec) -> Path | None:
    """The folder that a file or package lies in; None for an installed one, which holds everything
    else too.
    """
    if spec.origin is None or not spec.has_location:
        return None
    levels = 0 if spec.submodule_search_locations is None else 1
    folder = Path(spec.origin).parents[levels]
    installed = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    return None if folder in installed else folder


def _source(module: str, top: ModuleSpec | None, beside: Path | None) -> Path | None:
    """The file of `module`, in the package of `top` or in the folder `beside`; None where neither
    has it, or it is no Python source.
    """
    spec, name = top, module.partition(".")[0]
    if spec is None and beside is not None:
        spec = PathFinder.find_spec(name, [str(beside)])
    for word in module.split(".")[1:]:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{word}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imports(file: Path, module: str) -> Iterator[str]:
    """The modules that a file names in its import statements, wherever in it they stand."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the step that imports it says what is wrong with it
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - max(0, node.level - 1)]
            words = [*(above if node.level else []), *([node.module] if node.module else [])]
            base = ".".join(word for word in words if word)
            if base:
                yield base
            # What is imported may be a module itself.
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for module in sorted(files):
        digest.update(module.encode() + b"\0" + files[module].read_bytes() + b"\0")
    return digest.hexdigest()[:32]
