"""A reward written in Python: `{name: python, function: my_package.my_module.my_function}`.

The function is called once for each prompt, in the scoring process or, with a `timeout`, in
processes of its own that can be killed:

    def my_function(prompt: Prompt, samples: Sequence[Sample]) -> Sequence[float | None]: ...

and returns one number a sample, in order; None says that this sample could not be scored. It runs
because the recipe names it (I8); an exception or a NaN becomes a failed score that says so, and is
counted.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from annotated_types import Ge, Gt

from align.errors import SetupError
from align.records import Json, Sample, Score
from align.rewards.per_sample import failure
from align.rewards.process import Outcome, WorkerPool
from align.rewards.protocol import Group
from align.rewards.python_worker import Function, request


@dataclass(frozen=True)
class PythonFunction:
    """Calls a function by its dotted name."""

    function: str
    """`package.module.function`, importable where `align` runs."""
    timeout: Annotated[float, Gt(0)] | None = None
    """Processor seconds for one prompt; beyond it its samples fail and are counted. The function
    then runs in processes that hold 4 GiB each and are killed, so it can keep no model on a GPU.
    Default: no limit, and the scoring process itself."""
    workers: Annotated[int, Ge(1)] = 2
    """Of `timeout`."""

    def open(self) -> PythonScorer:
        """Imports the function; `SetupError` where there is none."""
        function = import_function(self.function)
        if self.timeout is None:
            return PythonScorer(self.function, function)
        pool = WorkerPool(
            "align.rewards.python_worker:make_caller",
            workers=self.workers,
            seconds=self.timeout,
            argument=self.function,
        )
        return PythonScorer(self.function, function, pool)


@dataclass(frozen=True)
class PythonScorer:
    """Calls `function` on each group, in the pool where there is one."""

    name: str
    function: Function
    pool: WorkerPool | None = None

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """The function's values; a failed call fails all samples of its prompt and no others."""
        if self.pool is None:
            outcomes = [self._call(group) for group in groups]
        else:
            outcomes = self.pool.map([request(group) for group in groups])
        return [self._judge(g, outcome) for g, outcome in zip(groups, outcomes, strict=True)]

    def close(self) -> None:
        """Kills the workers, where there are some."""
        if self.pool is not None:
            self.pool.close()

    def _call(self, group: Group) -> Outcome:
        try:
            return Outcome(cast(Json, list(self.function(group.prompt, group.samples))))
        # the user's code: reported with each sample, and counted
        except (Exception, SystemExit) as error:
            return Outcome(error=f"raised {type(error).__name__}: {error}")

    def _judge(self, group: Group, outcome: Outcome) -> list[Score]:
        values = outcome.value
        if not isinstance(values, list):
            reason = f"{self.name} {outcome.error}"
            return [failure(sample, reason) for sample in group.samples]
        if len(values) != len(group.samples):
            reason = f"{self.name} returned {len(values)} values for {len(group.samples)} samples"
            return [failure(sample, reason) for sample in group.samples]
        return [self._score(s, value) for s, value in zip(group.samples, values, strict=True)]

    def _score(self, sample: Sample, value: object) -> Score:
        try:
            number = math.nan if value is None else float(cast(float, value))
        except (TypeError, ValueError):
            return failure(sample, f"{self.name} returned {value!r}, not a number")
        if not math.isfinite(number):
            return failure(sample, f"{self.name} returned {value}")
        return Score(sample.sample_id, number)


def import_function(name: str) -> Function:
    """The object that `package.module.function` names; `SetupError` says what is missing."""
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise SetupError(
            f"python reward: {name!r} is not a dotted name; write package.module.function"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SetupError(
            f"python reward: cannot import {module_name}: {error}; "
            "install it, or run from the folder that holds it"
        ) from error
    found = vars(module).get(attribute)
    if not callable(found):
        raise SetupError(f"python reward: {module_name} has no function {attribute!r}")
    return cast(Function, found)
