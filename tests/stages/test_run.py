"""The order of a run, with steps that start no process: what is made, fetched, done again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from align.data.shards import read_records, write_part
from align.errors import InputsChanged, SetupError, StageError
from align.recipe.sections import Recipe
from align.records import Score
from align.report.screen import RichScreen
from align.stages.cache import fetch, store
from align.stages.commands import Launch
from align.stages.folder import RunFolder
from align.stages.lock import locked
from align.stages.manifest import Manifest, content_of, write_manifest
from align.stages.run import run_recipe


def _stored(folder: Path, cache: Path, value: float) -> Manifest:
    write_part(folder, 0, [Score("s", value)], Score)
    manifest = Manifest("x/scores", "score", {"k": 1}, content_of(folder), {}, {}, 1.0, "2026")
    store(cache, "score", manifest, folder)
    return manifest


def test_a_damaged_cache_entry_is_refused_and_never_copied(tmp_path: Path) -> None:
    """Were it copied, the next attempt would find the parts in place and take them for its own."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    manifest = _stored(tmp_path / "run", cache, 1.0)
    (entry,) = (cache / "score").iterdir()
    write_part(entry, 0, [Score("s", 2.0)], Score)
    with pytest.raises(StageError, match=r"is damaged: .* delete that folder"):
        fetch(cache, "score", manifest.key, out)
    assert not out.exists()


def test_what_was_done_again_takes_its_place_in_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _stored(tmp_path / "run", cache, 1.0)
    again = _stored(tmp_path / "again", cache, 3.0)
    assert fetch(cache, "score", again.key, tmp_path / "out") == again
    assert read_records(tmp_path / "out", Score) == [Score("s", 3.0)]


@pytest.mark.parametrize("name", ["a file", "a file/below"])
def test_a_folder_that_cannot_be_made_is_an_error_of_the_user(name: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(SetupError, match=r"cannot be the run's folder .* choose another"):
        locked(tmp_path / name).__enter__()


def test_a_run_that_divides_its_prompts_by_iterations_says_why_it_cannot_get_longer(
    tmp_path: Path,
) -> None:
    def run(iterations: int) -> RunFolder:
        sections = {
            "run": {"iterations": iterations},
            "policy": {"path": "org/policy"},
            "prompts": {"name": "addition", "digits": 1},
            "generate": {"name": "transformers"},
        }
        return RunFolder(Recipe.model_validate(sections), tmp_path)

    first = run(2).steps()[0]
    key = run(2).key(first)
    made = Manifest(first.name, "prompts", key, "content", {}, {}, 1.0, "2026")
    write_manifest(tmp_path / first.name, made)
    said = (
        r"section\.iterations \(2 -> 3\)\. Without prompts\.per_iteration .* is fixed when a run "
        r"begins; .* \(--out DIR\), .* \(--redo iter-000/prompts\)"
    )
    with pytest.raises(InputsChanged, match=said):
        run_recipe(run(3), Launch(tmp_path / "unused.yaml"), RichScreen(Console(quiet=True)))


def test_a_second_run_in_the_folder_is_refused_and_harms_no_node_of_the_first(
    tmp_path: Path,
) -> None:
    holder = (
        "import sys; from pathlib import Path; from align.stages.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    words = tmp_path / ".nodes" / "members.json"
    words.parent.mkdir()
    words.write_text(json.dumps({"0": "first"}))
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        launch = Launch(tmp_path / "unused.yaml", nodes=2)
        run = RunFolder(Recipe.model_validate({}), tmp_path)
        with pytest.raises(SetupError, match=f"in use by process {process.pid}; wait for it"):
            run_recipe(run, launch, RichScreen(Console()))
        process.communicate("")
    assert json.loads(words.read_text()) == {"0": "first"}
