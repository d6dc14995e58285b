"""Programs judged on tests: extraction, verdicts, failures, languages by configuration."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from align.errors import SetupError
from align.records import Json, Prompt, Score
from align.registry import PluginError, build
from align.rewards.code import Code, read_cases
from align.rewards.languages import BUILT_IN, Language
from align.rewards.protocol import Group
from align.rewards.sandbox import Limits
from tests.rewards.builders import group_of, sample_of

QUICK = Limits(seconds=1, memory_mb=128)
SUMS: list[Json] = [{"input": "1 2\n", "output": "3\n"}, {"input": "2 2\n", "output": "4"}]
RIGHT = "a, b = map(int, input().split())\nprint(a + b)\n"


def fenced(program: str, label: str = "python") -> str:
    return f"Here it is:\n```{label}\n{program}\n```\nDone."


def parts_of(score: Score) -> tuple[float | None, dict[str, float | None]]:
    return score.value, dict(score.parts)


def test_program_is_the_last_block_of_the_language() -> None:
    python = BUILT_IN["python"]
    text = "```python\n1\n```\n```\n2\n```\n```js\n3\n```\n"
    assert python.find_program(text) == "1\n"
    assert python.find_program(text + "~~~PY title=x\n4\n~~~") == "4\n"
    assert python.find_program("```\n2\n```") == "2\n"
    assert python.find_program("```js\n3\n```") is None
    assert python.find_program("```python\nprint(1)\n") is None, "cut off"
    assert python.find_program("print(1)") is None


def test_values_and_parts_of_right_wrong_broken_and_missing_programs() -> None:
    """3 = 1 + 2 is right, max(1, 2) = 2 is not; printing 4 passes the second test alone, which
    `all` never reaches."""
    texts = [
        fenced(RIGHT),
        fenced("print(max(map(int, input().split())))"),
        fenced("print(4)"),
        fenced("print(3) or 1 / 0"),
        "The sum.",
    ]
    scorer = Code(limits=QUICK, right=2.0, wrong=-1.0).open()
    scores = scorer.score([group_of("sum", SUMS, *texts)])[0]
    ran = {"extracted": 1.0, "stopped": 0.0}
    assert [parts_of(score) for score in scores] == [
        (2.0, ran | {"passed": 1.0}),
        (-1.0, ran | {"passed": 0.0}),
        (-1.0, ran | {"passed": 0.0}),
        (-1.0, ran | {"passed": 0.0}),
        (-1.0, {"extracted": 0.0, "passed": 0.0}),
    ]


def test_share_of_tests_interpolates() -> None:
    scorer = Code(limits=QUICK, right=2.0, wrong=-1.0, score="share").open()
    scores = scorer.score([group_of("sum", SUMS, fenced("print(4)"), fenced(RIGHT))])[0]
    assert [score.value for score in scores] == [0.5, 2.0]
    assert scores[0].parts["passed"] == 0.5


def test_stopped_program_fails_and_is_counted_or_is_wrong_where_the_recipe_says_so() -> None:
    texts = [fenced("while True: print('x' * 1000)"), fenced("while True: pass"), fenced(RIGHT)]
    group = group_of("sum", SUMS, *texts)
    scores = Code(limits=QUICK).open().score([group])[0]
    assert [score.value for score in scores] == [None, None, 1.0]
    assert [score.error for score in scores] == [
        "code: stopped by output",
        "code: stopped by time",
        None,
    ]
    assert scores[0].parts["stopped"] == 1.0
    scores = Code(limits=QUICK, stopped="wrong", wrong=-1.0).open().score([group])[0]
    assert [score.value for score in scores] == [-1.0, -1.0, 1.0]


@pytest.mark.parametrize(
    ("compare", "said", "is_right"),
    [
        ("lines", "1 2  \\n3\\n\\n", True),
        ("lines", "1  2\\n3", False),
        ("words", "1  2 3", True),
        ("exact", "1 2\\n3\\n", True),
        ("exact", "1 2\\n3", False),
    ],
)
def test_outputs_are_compared_by_lines_words_or_exactly(
    compare: str, said: str, is_right: bool
) -> None:
    config = build("reward", {"name": "code", "compare": compare, "limits": {"seconds": 1}})
    answer: list[Json] = [{"input": "", "output": "1 2\n3\n"}]
    scores = config.open().score([group_of("?", answer, fenced(f"print('{said}', end='')"))])
    assert scores[0][0].value == float(is_right)


def test_tests_are_read_in_every_usual_form() -> None:
    expected = [("1 2\n", "3"), ("4", "5\n6")]
    prompt = Prompt.of(
        "?",
        answer='{"inputs": ["1 2\\n", 4], "outputs": [3, ["5", "6"]]}',
        meta={"cases": [{"input": "1 2\n", "output": "3"}, {"input": "4", "output": "5\n6"}]},
    )
    assert read_cases(prompt, None) == expected
    assert read_cases(prompt, "cases") == expected


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (None, "has no tests in its answer"),
        ([], "has no tests in its answer"),
        ("{", "has tests that are not JSON in its answer"),
        ({"inputs": ["1"]}, "has no `inputs` and `outputs` in its answer"),
        ({"inputs": ["1"], "outputs": []}, "has 1 inputs and 0 outputs in its answer"),
        ([{"input": "1"}], "has a test without `input` and `output` in its answer"),
    ],
)
def test_unusable_tests_are_failures(answer: Json, fault: str) -> None:
    prompt = Prompt.of("?", answer=answer)
    group = Group(prompt, (sample_of(prompt, 0, fenced(RIGHT)),))
    score = Code(limits=QUICK).open().score([group])[0][0]
    assert score.value is None and fault in str(score.error)


def test_compiled_language_and_its_compiler_errors() -> None:
    assert shutil.which("gcc"), "DeepSpeed's tests need it too"
    program = (
        '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }'
    )
    scores = (
        Code(language="c", limits=QUICK)
        .open()
        .score([group_of("sum", SUMS, fenced(program, "c"), fenced("int main() {", "C"))])[0]
    )
    ran = {"extracted": 1.0, "stopped": 0.0}
    assert parts_of(scores[0]) == (1.0, ran | {"passed": 1.0, "compiled": 1.0})
    assert parts_of(scores[1]) == (0.0, ran | {"passed": 0.0, "compiled": 0.0})


SHELL: dict[str, object] = {
    "name": "sh",
    "file": "main.sh",
    "run": ["/bin/sh", "main.sh"],
    "fences": ["shell"],
    "example": "cat",
}


def test_any_language_by_a_short_configuration() -> None:
    config = build("reward", {"name": "code", "language": SHELL, "limits": {"seconds": 1}})
    texts = [fenced("read a b; echo $((a + b))", "shell"), fenced("read a b; echo $a", "sh")]
    scores = config.open().score([group_of("sum", SUMS, *texts)])[0]
    assert [score.value for score in scores] == [1.0, 0.0]


def test_language_that_does_not_work_here_is_refused_when_it_opens() -> None:
    absent = Language(name="none", file="x", run=("no-such-language", "x"), example="cat")
    with pytest.raises(
        SetupError, match=r"example program of none does not copy its input.*No such file"
    ):
        Code(language=absent).open()
    silent = replace(absent, run=("/bin/true",))
    with pytest.raises(SetupError, match="does not copy its input"):
        Code(language=silent).open()
    with pytest.raises(PluginError, match=r'language "cobol" is not built in \(python, c, cpp\)'):
        build("reward", {"name": "code", "language": "cobol"})
    for wrong, cause in (
        ({"mounts": ["opt"]}, "mounts must be absolute"),
        ({"file": "a/b"}, "without"),
    ):
        with pytest.raises(PluginError, match=cause):
            build("reward", {"name": "code", "language": SHELL | wrong})
    with pytest.raises(PluginError, match=r"limits\.second "):
        build("reward", {"name": "code", "limits": {"second": 1}})
