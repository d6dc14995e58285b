"""A folder that can no longer be written: one line of cause, exit status 3, and no node waits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from align.data.shards import whole_or_absent, write_part
from align.errors import AlignError, StageError
from align.recipe.sections import Recipe
from align.records import Score
from align.report.screen import RichScreen
from align.stages import nodes
from align.stages.commands import Launch
from align.stages.folder import RunFolder
from align.stages.manifest import write_json
from align.stages.nodes import Nodes
from align.stages.run import run_recipe

LIMITED = (
    "import resource, sys; from align.cli import main\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
    "sys.exit(main(['run', sys.argv[2], '--out', sys.argv[3]]))\n"
)
"""No file may grow beyond so many bytes: the kernel refuses the write, as on a full disk."""
RECIPE = (
    "policy: {path: org/a}\nprompts: {name: addition, digits: 2, limit: 2000}\n"
    "generate: {name: stored, path: org/b}\n"
)


@pytest.mark.parametrize(
    ("limit", "file"),
    [(16, "recipe.yaml"), (12_000, "iter-000/prompts/part-00000.parquet")],
)
def test_a_full_disk_is_one_line_of_cause(limit: int, file: str, tmp_path: Path) -> None:
    """16 bytes hold the lock's process id, but not the recipe; 12,000 the recipe and the step's
    key, but not 2,000 prompts.
    """
    recipe, out = tmp_path / "x.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), str(recipe), str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{out / file}: File too large; kept are the steps that are finished")
    assert "the same command goes on" in line
    assert not list(out.rglob(".*.*.*")), "what was begun is removed: it takes room"


def test_what_is_not_whole_is_not_there_and_named(tmp_path: Path) -> None:
    """A folder in the file's place cannot be replaced by it."""
    for write, name in (
        (lambda: write_json(tmp_path / "a.json", {"k": 1}), "a.json"),
        (lambda: write_part(tmp_path, 0, [Score("s", 1.0)], Score), "part-00000.parquet"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match=name) as caught:
            write()
        assert caught.value.filename == str(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "part-00000.parquet"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """A worker whose shard was taken over may still write it, on another node by the same process
    number.
    """
    path = tmp_path / "part-00000.parquet"
    with whole_or_absent(path) as slow:
        slow.write_text("slow, ")
        with whole_or_absent(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
        with slow.open("a") as file:
            file.write("whole")
    assert path.read_text() == "slow, whole"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def _follower(out: Path, found: list[AlignError]) -> threading.Thread:
    """A second node that runs `align run` until it is told to leave."""
    launch = Launch(out / "unused.yaml", nodes=2, node_rank=1)

    def follow() -> None:
        try:
            run_recipe(RunFolder(Recipe.model_validate({}), out), launch, RichScreen(Console()))
        except AlignError as error:
            found.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def test_the_other_nodes_leave_with_the_leader(tmp_path: Path) -> None:
    """A minute of silence would end them too; they must hear of it at once."""
    (tmp_path / "recipe.yaml").mkdir()
    found: list[AlignError] = []
    thread = _follower(tmp_path, found)
    began = time.monotonic()
    launch = Launch(tmp_path / "unused.yaml", nodes=2)
    with pytest.raises(StageError, match=r"recipe\.yaml: Is a directory; kept are") as caught:
        run_recipe(RunFolder(Recipe.model_validate({}), tmp_path), launch, RichScreen(Console()))
    thread.join(30)
    assert time.monotonic() - began < 30
    assert caught.value.exit_status == 3
    assert [error.exit_status for error in found] == [3]
    assert str(found[0]) == f"node 0: {caught.value}"


def test_a_leader_that_cannot_write_its_last_word_is_missed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for its order; members.json goes instead."""

    def write_all_but_orders(path: Path, value: object) -> None:
        if path.name == "order.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_json(path, value)

    monkeypatch.setattr(nodes, "write_json", write_all_but_orders)
    found: list[AlignError] = []
    thread = _follower(tmp_path, found)
    with Nodes(tmp_path, 2, 0) as leader:
        began = time.monotonic()
        leader.dismiss(3, "the disk is full")
        thread.join(30)
    assert time.monotonic() - began < 30
    assert len(found) == 1 and found[0].exit_status == 3
    assert "node 0 has left and could not say why" in str(found[0])
