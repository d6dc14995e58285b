r"""Runs the program in a completion on stdin/stdout tests, in a box (ALGORITHMS 12.14).

The tests stand in `Prompt.answer`, or in the column of `Prompt.meta` that `tests` names:
`[{"input": "1 2\n", "output": "3\n"}, ...]`, or `{"inputs": [...], "outputs": [...]}`, or either
as a JSON string. Expected outputs never enter the box.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import INFO, WARNING, getLogger
from typing import Annotated, Literal

from annotated_types import Ge

from align.errors import SetupError
from align.records import Json, Prompt, Sample, Score
from align.rewards.languages import BUILT_IN, Language
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.sandbox import BoxError, Isolation, Limits, Ran, Sandbox

GOLDEN = "1 2\n\nthree\n"
"""What a language's example must copy when the reward opens (I6)."""

Case = tuple[str, str]

_LOGGER = getLogger(__name__)


@dataclass(frozen=True)
class Code:
    """`right` where the program passes all tests, else `wrong`; also for no program, one that does
    not compile, and one that fails. Parts: `extracted`, `compiled`, `passed` (share of tests),
    `stopped`.
    """

    language: str | Language = "python"
    """`python`, `c`, `cpp`, or a language of your own: `{name, file, run, compile, ...}`."""
    tests: str | None = None
    """Column that holds the tests; default: the prompt's answer."""
    score: Literal["all", "share"] = "all"
    """`share` interpolates between `wrong` and `right`. Partial credit is exploited (Agnostics)."""
    compare: Literal["lines", "words", "exact"] = "lines"
    """`lines` ignores blanks at the end of lines and empty lines at the end; `words` all blanks."""
    right: float = 1.0
    wrong: float = 0.0
    stopped: Literal["error", "wrong"] = "error"
    """A program that a limit stopped (time, output, memory): the sample fails and is counted, or it
    is wrong, so that endless loops are trained away too."""
    sandbox: Isolation = "namespace"
    """`process` gives up hiding files and the network; see `align.rewards.sandbox`."""
    limits: Limits = field(default_factory=Limits)
    """`seconds`, `memory_mb`, `processes`, `disk_mb`, `output_kb` of one run."""
    workers: Annotated[int, Ge(1)] = 2
    """Boxes at a time."""

    def __post_init__(self) -> None:
        if isinstance(self.language, str) and self.language not in BUILT_IN:
            raise ValueError(
                f'language "{self.language}" is not built in ({", ".join(BUILT_IN)}); '
                "give {name, file, run} for another one"
            )

    def open(self) -> CodeScorer:
        """Runs the language's example in a box. Raises `SetupError` where it does not copy its
        input, or where the machine does not allow the sandbox.
        """
        language = self.language if isinstance(self.language, Language) else BUILT_IN[self.language]
        sandbox = Sandbox(self.sandbox, self.limits, language.mounts, language.path)
        scorer = CodeScorer(self, language, sandbox)
        scorer.check_example()
        _LOGGER.log(WARNING if self.sandbox == "process" else INFO, "code runs in a %s", sandbox)
        return scorer


@dataclass(frozen=True)
class Verdict:
    """What the tests say of one program."""

    passed: float = 0.0
    parts: Mapping[str, float] | None = None
    stopped: str = ""
    error: str | None = None


class CodeScorer:
    """Judges each program once for each prompt, several boxes at a time."""

    def __init__(self, config: Code, language: Language, sandbox: Sandbox) -> None:
        self._config, self._language, self.sandbox = config, language, sandbox

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One verdict a sample; unusable tests, a broken box or a limit are failed scores."""
        cases = {
            group.prompt.prompt_id: read_cases(group.prompt, self._config.tests) for group in groups
        }
        programs = {
            (group.prompt.prompt_id, program): None
            for group in groups
            for sample in group.samples
            if not isinstance(cases[group.prompt.prompt_id], str)
            and (program := self._language.find_program(sample.text)) is not None
        }
        with ThreadPoolExecutor(self._config.workers) as pool:
            found = pool.map(lambda item: self._judge(item[1], cases[item[0]]), programs)
            verdicts = dict(zip(programs, found, strict=True))
        return [
            [self._score(group.prompt, sample, cases, verdicts) for sample in group.samples]
            for group in groups
        ]

    def close(self) -> None:
        """Boxes are closed as soon as they are done."""

    def check_example(self) -> None:
        """Raises `SetupError` unless the language's example copies its input."""
        language = self._language
        with self.sandbox.open():
            pass  # the machine allows it
        if not language.example:
            return
        verdict = self._judge(language.example, [(GOLDEN, GOLDEN)])
        if verdict.passed != 1.0:
            cause = verdict.error or verdict.stopped or f"{verdict.parts}"
            raise SetupError(
                f"code: the example program of {language.name} does not copy its input in a "
                f"{self.sandbox} ({cause}); install {language.name}, name its folders in `mounts`, "
                "or raise `limits`"
            )

    def _judge(self, program: str, cases: Sequence[Case] | str) -> Verdict:
        try:
            with self.sandbox.open() as box:
                box.write({self._language.file: program})
                if self._language.compile:
                    ran = box.run(self._language.compile, seconds=self._language.compile_seconds)
                    if ran.stopped or ran.status:
                        parts = {"compiled": 0.0}
                        return Verdict(0.0, parts, ran.stopped and f"the compiler: {ran.stopped}")
                passed = 0
                for given, expected in cases:
                    ran = box.run(self._language.run, given, seconds=self._config.limits.seconds)
                    if ran.stopped:
                        return Verdict(passed / len(cases), None, ran.stopped)
                    if self._is_right(ran, expected):
                        passed += 1
                    elif self._config.score == "all":
                        break
                return Verdict(passed / len(cases))
        except BoxError as error:
            return Verdict(error=str(error))

    def _is_right(self, ran: Ran, expected: str) -> bool:
        match self._config.compare:
            case "exact":
                same = ran.output == expected
            case "words":
                same = ran.output.split() == expected.split()
            case "lines":
                same = lines_of(ran.output) == lines_of(expected)
        return same and ran.status == 0

    def _score(
        self,
        prompt: Prompt,
        sample: Sample,
        cases: Mapping[str, list[Case] | str],
        verdicts: Mapping[tuple[str, str], Verdict],
    ) -> Score:
        config, fault = self._config, cases[prompt.prompt_id]
        if isinstance(fault, str):
            return failure(sample, f"code: prompt {prompt.prompt_id} {fault}")
        program = self._language.find_program(sample.text)
        if program is None:
            return Score(sample.sample_id, config.wrong, {"extracted": 0.0, "passed": 0.0})
        verdict = verdicts[prompt.prompt_id, program]
        if verdict.error:
            return failure(sample, f"code: {verdict.error}")
        parts: dict[str, float | None] = {"extracted": 1.0, "passed": verdict.passed}
        parts["stopped"] = float(bool(verdict.stopped))
        parts |= {"compiled": 1.0} if self._language.compile else {}
        parts |= verdict.parts or {}
        if verdict.stopped and config.stopped == "error":
            return Score(sample.sample_id, None, parts, error=f"code: stopped by {verdict.stopped}")
        share = verdict.passed if config.score == "share" else float(verdict.passed == 1.0)
        return Score(sample.sample_id, config.wrong + share * (config.right - config.wrong), parts)


def read_cases(prompt: Prompt, column: str | None) -> list[Case] | str:
    """The prompt's (input, output) tests, or what is wrong with them."""
    meta = prompt.meta if isinstance(prompt.meta, Mapping) else {}
    found = prompt.answer if column is None else meta.get(column)
    where = "its answer" if column is None else f"its column {column!r}"
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except json.JSONDecodeError as error:
            return f"has tests that are not JSON in {where}: {error}"
    if isinstance(found, Mapping):
        inputs, outputs = found.get("inputs"), found.get("outputs")
        if not (isinstance(inputs, Sequence) and isinstance(outputs, Sequence)):
            return f"has no `inputs` and `outputs` in {where}"
        if len(inputs) != len(outputs):
            return f"has {len(inputs)} inputs and {len(outputs)} outputs in {where}"
        found = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    if not isinstance(found, Sequence) or not found:
        return f"has no tests in {where}"
    cases: list[Case] = []
    for each in found:
        if not isinstance(each, Mapping) or not {"input", "output"} <= set(each):
            return f"has a test without `input` and `output` in {where}"
        cases.append((text_of(each["input"]), text_of(each["output"])))
    return cases


def text_of(value: Json) -> str:
    """A test's text; lists of lines are joined, numbers written out."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(map(text_of, value))
    return str(value)


def lines_of(text: str) -> list[str]:
    """The lines without blanks at their ends and without empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
