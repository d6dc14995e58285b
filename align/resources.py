"""Where the recipes and launch files that come with the package lie, in a checkout and in a wheel.

A checkout has `recipes/` and `accelerate_configs/` beside the package; the wheel carries both in
`align/_shipped/`.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from align.errors import SetupError

_PACKAGE = Path(__file__).resolve().parent


def recipes() -> Path:
    """The folder of the recipes; raises `SetupError` where it is missing."""
    return _folder("recipes")


def accelerate_config(name: str) -> Path:
    """The launch file: `accelerate_config("zero3")` -> `.../accelerate_configs/zero3.yaml`.

    Raises `SetupError`, with the nearest name, where there is no such file.
    """
    folder = _folder("accelerate_configs")
    path = folder / f"{name}.yaml"
    if path.is_file():
        return path
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    near = difflib.get_close_matches(name, names, n=1)
    remedy = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names) or 'none'}"
    raise SetupError(f'no launch file is called "{name}" in {folder}; {remedy}')


def _folder(name: str) -> Path:
    for place in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise SetupError(
        f"the folder {name}/ is neither in the installed package nor beside it; "
        "install align-lm again from a wheel or a complete checkout"
    )
