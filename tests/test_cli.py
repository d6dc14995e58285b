"""The command line in a process of its own: quick, light, with the promised exit statuses."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from align import cli
from align.errors import AlignError, InputError, StageError

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "vllm", "pydantic", "yaml", "datasets", "pyarrow")


def align(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "align", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["run", "--help"], ["--version"]])
def test_help_and_schema_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom align.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert done.stdout


def test_installed_command_finds_plugins_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass First:\n"
        "    def __call__(self, samples, scores, rng):\n        return [0]\n"
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "generate: {name: stored, path: samples.jsonl}\nselect: {name: my_rules.Frist}\n"
    )
    command = [str(Path(sys.executable).parent / "align"), "check", str(recipe)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'my_rules has no class Frist; did you mean "First"?' in done.stderr


def test_check_looks_at_every_recipe_that_is_named(tmp_path: Path) -> None:
    wrong, good = tmp_path / "wrong.yaml", tmp_path / "good.yaml"
    wrong.write_text("polcy: {path: x}\n")
    good.write_text("generate: {name: stored, path: org/samples}\nscore: {name: length}\n")
    done = align("check", str(wrong), str(good))
    assert done.returncode == 2
    assert f"{wrong}:1" in done.stderr and str(good) not in done.stderr
    assert f"{good} is valid" in done.stdout


def test_help_answers_in_half_a_second() -> None:
    """The best of five in processor time: other processes share the cores."""
    seconds: list[float] = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert align("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_teaches() -> None:
    text = align("--help").stdout
    for command in ("run", "check", "show", "report", "doctor", "publish", "schema"):
        assert f"\n    {command} " in text
    assert "\n    evaluate-reward" in text
    for status in ("0    done", "2    the recipe", "3    a stage failed", "130  interrupted"):
        assert status in text
    assert text.count("\n  align ") == 5
    assert max(map(len, text.splitlines())) <= 100


def test_no_command_prints_the_help() -> None:
    done = align()
    assert done.returncode == 0 and done.stdout == align("--help").stdout


@pytest.mark.parametrize("arguments", [["rnu"], ["check"], ["run", "x.yaml", "--sett", "a=b"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = align(*arguments)
    assert done.returncode == 2 and "usage: align" in done.stderr


def test_check_reports_located_errors_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("policy: {path: org/a}\ngenerate: {nam: vllm}\nrun: {sead: 1}\n")
    done = align("check", str(path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        f'{path}:2: generate.name is required; add "name" to generate',
        f'{path}:3: run.sead is not a key of run; did you mean "seed"?',
    ]


def test_check_locates_overrides(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("policy: {path: org/a}\nsft: {data: {path: org/b}}\n")
    done = align("check", str(path), "--set", "sft.max_lenght=3")
    assert done.returncode == 2
    assert done.stderr == ('--set sft.max_lenght is not a key of sft; did you mean "max_length"?\n')


def test_schema_prints_the_shipped_file() -> None:
    done = align("schema")
    assert done.returncode == 0
    assert done.stdout == (ROOT / "align" / "recipe.schema.json").read_text()
    assert json.loads(done.stdout)["title"] == "align recipe"


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (InputError("wrong data"), 2, "wrong data\n"),
        (StageError("it failed", log=Path("run.log")), 3, "it failed (log: run.log)\n"),
        (AlignError("other"), 3, "other\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_become_exit_statuses(
    raised: BaseException,
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> int:
        raise raised

    monkeypatch.setattr("align.commands.schema.main", fail)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert cli.main(["schema"]) == status
    assert capsys.readouterr().err == says


def test_run_takes_what_the_design_promises() -> None:
    args = cli.parser().parse_args(
        [
            "run",
            "r.yaml",
            "--out",
            "o",
            "--set",
            "a=1",
            "--set",
            "b.c=2",
            "--redo",
            "sft",
            "--accelerate-config",
            "zero3.yaml",
            "--nodes",
            "2",
            "--node-rank",
            "1",
            "--main-address",
            "host",
        ]
    )
    assert (args.recipe, args.out, args.overrides, args.redo) == (
        "r.yaml",
        "o",
        ["a=1", "b.c=2"],
        ["sft"],
    )
    assert (args.accelerate_config, args.nodes) == ("zero3.yaml", 2)
    assert (args.node_rank, args.main_address) == (1, "host")
