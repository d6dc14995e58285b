"""Optimizers of transformers that live in packages of their own. Without this table a missing one
is found out only when the weights are loaded and the optimizer is made.
"""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES: dict[str, tuple[str, str]] = {
    "adamw_bnb": ("bitsandbytes", "bitsandbytes"),
    "adamw_8bit": ("bitsandbytes", "bitsandbytes"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
    "lion": ("bitsandbytes", "bitsandbytes"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "rmsprop_bnb": ("bitsandbytes", "bitsandbytes"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
}
"""How names of `args: {optim: ...}` begin: the module they need, and the package that brings it."""


def missing_package(optimizer: object) -> str | None:
    """The package that an optimizer's name needs and this environment lacks, or None.

    >>> missing_package("adamw_torch") is None
    True
    """
    if not isinstance(optimizer, str):
        return None
    for beginning, (module, package) in PACKAGES.items():
        if optimizer.startswith(beginning) and find_spec(module) is None:
            return package
    return None
