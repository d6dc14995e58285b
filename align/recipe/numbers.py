"""Numbers that are none: `.nan` anywhere, `.inf` where nothing can be done with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from align.recipe.document import Key
from align.recipe.problems import Problem
from align.recipe.values import is_list, is_mapping

_ANY_SIZE = frozenset({("select", "beta")})
"""Where an infinite number has a meaning: RSO's temperature that accepts all. So it may in `args`
(`max_grad_norm: .inf`). Our own bounds that do not bind are said by leaving them out."""


def odd_numbers(value: object, key: Key = ()) -> Iterator[Problem]:
    """Problems of a raw recipe. Comparisons with NaN are all false, so that the bounds of sections
    and plug-ins may not see it.
    """
    if is_mapping(value):
        for name, each in value.items():
            yield from odd_numbers(each, (*key, name))
    elif is_list(value):
        for index, each in enumerate(value):
            yield from odd_numbers(each, (*key, index))
    elif isinstance(value, float) and math.isnan(value):
        yield Problem(key, "is not a number (.nan)", "give a number, or remove the key")
    elif isinstance(value, float) and math.isinf(value) and not (key in _ANY_SIZE or "args" in key):
        yield Problem(key, f"must be finite, not {value}", "give a number, or remove the key")
