"""`.inf` where nothing can be done with it. (`.nan` the reader refuses.)"""

from __future__ import annotations

import math
from collections.abc import Iterator

from align.recipe.document import Key
from align.recipe.problems import Problem
from align.recipe.values import is_list, is_mapping

_ANY_SIZE = frozenset({("select", "beta")})
"""Where an infinite number has a meaning: RSO's temperature that accepts all. So it may in `args`
(`max_grad_norm: .inf`). Our own bounds that do not bind are said by leaving them out."""


def infinite_numbers(value: object, key: Key = ()) -> Iterator[Problem]:
    """Problems of a raw recipe."""
    if is_mapping(value):
        for name, each in value.items():
            yield from infinite_numbers(each, (*key, name))
    elif is_list(value):
        for index, each in enumerate(value):
            yield from infinite_numbers(each, (*key, index))
    elif isinstance(value, float) and math.isinf(value) and not (key in _ANY_SIZE or "args" in key):
        yield Problem(key, f"must be finite, not {value}", "give a number, or remove the key")
