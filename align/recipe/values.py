"""What YAML, JSON and defaults hold, told apart once: the checks that give raw values a type.

A type checker knows nothing of what is inside `isinstance(value, dict)`; keys are text here because
`align.recipe.document` refuses others, and JSON has no others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TypeGuard


def is_mapping(value: object) -> TypeGuard[dict[str, object]]:
    """True for a mapping of a document, which may be changed in place."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """True for a list of a document, which may be changed in place."""
    return isinstance(value, list)


def is_any_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    """True for whatever maps, as a plug-in's default may."""
    return isinstance(value, Mapping)


def is_collection(value: object) -> TypeGuard[Collection[object]]:
    """True for what YAML would write as a list."""
    return isinstance(value, (list, tuple, set, frozenset))


def is_number(value: object) -> TypeGuard[float]:
    """True for finite numbers; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
