"""Instructions that a program can check (IFEval, arXiv:2311.07911): which share of them a
completion keeps.

The prompt's `meta` has the columns `instruction_id_list` and `kwargs`, one mapping of arguments a
rule (a list, or its JSON).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from align.errors import SetupError
from align.records import Prompt, Sample, Score
from align.rewards.instruction_rules import RULES, Arguments
from align.rewards.per_sample import PerSample, failure

Task = list[tuple[str, Arguments]]


@dataclass(frozen=True)
class Instructions:
    """`wrong` + share of rules kept x (`right` - `wrong`). Parts: one a rule (the mean where it
    stands there twice), and `all`.
    """

    score: Literal["share", "all"] = "share"
    """`all` gives `right` only where every rule is kept."""
    loose: bool = False
    """True also takes the text without its first line, its last line or its asterisks, as the
    benchmark's loose accuracy does."""
    rules: tuple[str, ...] = ()
    """Only these rules count; default: all that a prompt names."""
    right: float = 1.0
    wrong: float = 0.0

    def open(self) -> PerSample:
        """Raises `SetupError` where `rules` names one that does not exist."""
        unknown = sorted(set(self.rules) - set(RULES))
        if unknown:
            raise SetupError(
                f"instructions: no such rule: {', '.join(unknown)}; known are {', '.join(RULES)}"
            )
        return PerSample(self._score)

    def _score(self, prompt: Prompt, sample: Sample) -> Score:
        task = read_task(prompt)
        if isinstance(task, str):
            return failure(sample, f"instructions: prompt {prompt.prompt_id} {task}")
        counted = [(rule, given) for rule, given in task if rule in (self.rules or RULES)]
        if not counted:
            return failure(sample, f"instructions: prompt {prompt.prompt_id} has no rule to count")
        texts = variants(sample.text) if self.loose else [sample.text]
        kept: dict[str, list[bool]] = {}
        for rule, given in counted:
            try:
                found = any(text.strip() and RULES[rule](text, given) for text in texts)
            except (KeyError, TypeError, ValueError) as error:
                reason = f"has arguments {dict(given)!r} that {rule} does not take: {error!r}"
                return failure(sample, f"instructions: prompt {prompt.prompt_id} {reason}")
            kept.setdefault(rule, []).append(bool(found))
        verdicts = [verdict for each in kept.values() for verdict in each]
        share = sum(verdicts) / len(verdicts)
        parts: dict[str, float | None] = {rule: sum(v) / len(v) for rule, v in kept.items()}
        parts["all"] = float(all(verdicts))
        counts = share if self.score == "share" else float(all(verdicts))
        return Score(sample.sample_id, self.wrong + counts * (self.right - self.wrong), parts)


def read_task(prompt: Prompt) -> Task | str:
    """The prompt's rules with their arguments, or what is wrong with them."""
    meta = prompt.meta if isinstance(prompt.meta, Mapping) else {}
    names, given = meta.get("instruction_id_list"), meta.get("kwargs")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            return f"has a column kwargs that is not JSON: {error}"
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return "has no rules in its column instruction_id_list"
    if not isinstance(given, Sequence) or len(given) != len(names):
        return "has a column kwargs without one mapping a rule"
    unknown = sorted({str(name) for name in names} - set(RULES))
    if unknown:
        return f"names unknown rules ({', '.join(unknown)}); known are {', '.join(RULES)}"
    return [
        (str(name), {key: value for key, value in each.items() if value is not None})
        for name, each in zip(names, given, strict=True)
        if isinstance(each, Mapping)
    ]


def variants(text: str) -> list[str]:
    """The text without its first line, last line, both or neither, each with and without `*`."""
    lines = text.split("\n")
    cuts = product((0, 1), (0, 1))
    cut = ["\n".join(lines[first : len(lines) - last]).strip() for first, last in cuts]
    return [*cut, *(each.replace("*", "") for each in cut)]
