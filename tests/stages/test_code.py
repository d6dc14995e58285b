"""The code that a step names is part of its key, and is read without being run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from align.data.shards import write_part
from align.errors import InputsChanged
from align.recipe.sections import Recipe
from align.records import Json, Score
from align.report.screen import RichScreen
from align.stages.code import code_hashes
from align.stages.commands import Launch
from align.stages.folder import RunFolder
from align.stages.manifest import Manifest, content_of, write_manifest
from align.stages.run import run_recipe

BOOM = "raise SystemExit('this module was run')\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module of a project in the working folder."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def one(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return one


def _of(name: str, key: str = "name") -> Json:
    return code_hashes({"sources": [{key: name}]}).get(name)


def test_a_file_counts_with_what_it_imports_from_beside_it(
    write: Callable[[str, str], None],
) -> None:
    """The word list beside the reward decides its scores; a file that nothing imports does not."""
    write("h9_reward.py", BOOM + "import torch\nfrom h9_words import WORDS\n")
    write("h9_words.py", "WORDS = {'a'}\n")
    write("h9_other.py", "X = 1\n")
    before = _of("h9_reward.score", "function")
    assert before is not None
    write("h9_other.py", "X = 2\n")
    assert _of("h9_reward.score", "function") == before
    write("h9_words.py", "WORDS = {'a', 'b'}\n")
    assert _of("h9_reward.score", "function") != before


@pytest.mark.parametrize("changed", ["h9_pkg/rules/keep.py", "h9_pkg/limits.py", "h9_pkg/base.py"])
def test_a_class_that_its_package_only_passes_on_is_followed(
    changed: str, write: Callable[[str, str], None]
) -> None:
    """`h9_pkg.rules.Keep`: the class of rules/keep.py, which takes a number from h9_pkg/limits.py
    and, inside a function, a name from h9_pkg/base.py.
    """
    write("h9_pkg/__init__.py", BOOM)
    write("h9_pkg/rules/__init__.py", "from .keep import Keep\n")
    write("h9_pkg/rules/keep.py", "from .. import limits\ndef f():\n    import h9_pkg.base\n")
    write("h9_pkg/limits.py", "LIMIT = 1\n")
    write("h9_pkg/base.py", "BASE = 1\n")
    write("h9_pkg/unused.py", "A = 1\n")
    before = _of("h9_pkg.rules.Keep")
    assert before is not None and before == _of("h9_pkg.rules:Keep")
    write("h9_pkg/unused.py", "A = 2\n")
    assert _of("h9_pkg.rules.Keep") == before
    write(changed, "# another\n")
    assert _of("h9_pkg.rules.Keep") != before


@pytest.mark.parametrize(
    "name", ["dpo", "align.objectives.dpo.Dpo", "nowhere.Rule", "./words.tsv", "org/a.b", "v1.5"]
)
def test_what_is_no_code_from_outside_has_no_hash(name: str) -> None:
    assert code_hashes({"objective": {"name": name}, "path": "h9_reward.x"}) == {}


def test_a_changed_function_refuses_and_names_its_key(
    tmp_path: Path, write: Callable[[str, str], None]
) -> None:
    write("h9_grade.py", "def grade(prompt, samples):\n    return [1.0 for _ in samples]\n")
    score = {"name": "python", "function": "h9_grade.grade"}
    stored = {"name": "stored", "path": "org/samples"}
    run = RunFolder(Recipe.model_validate({"generate": stored, "score": score}), tmp_path / "out")
    for step in run.steps():
        folder = run.folder(step.name)
        write_part(folder, 0, [Score("s", 1.0)], Score)
        manifest = Manifest(
            step.name, step.kind, run.key(step), content_of(folder), {}, {}, 1.0, ""
        )
        write_manifest(folder, manifest)
    launch, screen = Launch(tmp_path / "unused.yaml"), RichScreen(Console())
    assert run_recipe(run, launch, screen).done == 0
    write("h9_grade.py", "def grade(prompt, samples):\n    return [2.0 for _ in samples]\n")
    with pytest.raises(InputsChanged, match=r"code\.h9_grade\.grade .*--redo iter-000/scores"):
        run_recipe(run, launch, screen)
