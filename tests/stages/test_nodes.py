"""Two nodes over one folder: joining, orders, failures, silence."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from align.errors import SetupError, StageError
from align.recipe.sections import Recipe
from align.report.screen import RichScreen
from align.stages import nodes as module
from align.stages.commands import Launch
from align.stages.folder import RunFolder
from align.stages.nodes import Nodes, Order
from align.stages.run import run_recipe


def _follow(out: Path, found: list[Order], cause: str = "") -> threading.Thread:
    def work() -> None:
        with Nodes(out, 2, 1) as follower:
            while True:
                order = follower.next_order()
                found.append(order)
                if order.exit_status is not None:
                    return
                follower.report(cause)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_follower_does_what_the_leader_announces(tmp_path: Path) -> None:
    found: list[Order] = []
    thread = _follow(tmp_path, found)
    with Nodes(tmp_path, 2, 0) as leader:
        for step in ("sft", "iter-000/samples"):
            leader.announce((step,))
            leader.wait_for_followers()
        leader.dismiss(0)
        thread.join(20)
    assert [(order.steps, order.exit_status) for order in found] == [
        (("sft",), None),
        (("iter-000/samples",), None),
        ((), 0),
    ]


def test_leader_hears_of_a_follower_that_failed(tmp_path: Path) -> None:
    found: list[Order] = []
    thread = _follow(tmp_path, found, cause="out of memory")
    with Nodes(tmp_path, 2, 0) as leader:
        leader.announce(("sft",))
        with pytest.raises(StageError, match="node 1: out of memory"):
            leader.wait_for_followers()
        leader.dismiss(3, "node 1: out of memory")
        thread.join(20)
    assert found[-1].exit_status == 3


def test_a_failure_said_between_two_looks_is_not_taken_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower's word comes after `check` has looked, and before the leader looks whether it
    is done.
    """
    thread = _follow(tmp_path, [], cause="out of memory")
    with Nodes(tmp_path, 2, 0) as leader:
        leader.announce(("sft",))
        with monkeypatch.context() as patch:
            patch.setattr(leader, "check", lambda: None)
            with pytest.raises(StageError, match="node 1: out of memory"):
                leader.wait_for_followers()
        leader.dismiss(3)
        thread.join(20)


def test_a_folder_that_is_cleared_under_its_hands_does_not_end_a_joining_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mkdir(exist_ok=True)` finds the folder, and a moment later finds it gone: an error of a file
    that exists.
    """
    left: list[type[OSError]] = [FileNotFoundError, FileExistsError]
    write = module.write_json

    def write_later(path: Path, value: object) -> None:
        if path.name == "join-1.json" and left:
            raise left.pop()
        write(path, value)

    monkeypatch.setattr(module, "write_json", write_later)
    found: list[Order] = []
    thread = _follow(tmp_path, found)
    with Nodes(tmp_path, 2, 0) as leader:
        leader.dismiss(0)
        thread.join(20)
    assert not left and [order.exit_status for order in found] == [0]


def test_files_of_an_earlier_run_are_not_believed(tmp_path: Path) -> None:
    """A stale order lies in the folder; the new follower must wait for the new leader's word."""
    with Nodes(tmp_path, 1, 0):
        pass
    (tmp_path / ".nodes").mkdir()
    (tmp_path / ".nodes" / "order.json").write_text(
        '{"sequence": 1, "steps": ["sft"], "exit_status": null, "cause": ""}'
    )
    found: list[Order] = []
    thread = _follow(tmp_path, found)
    time.sleep(1)
    assert found == []
    with Nodes(tmp_path, 2, 0) as leader:
        leader.dismiss(0)
        thread.join(20)
    assert [order.exit_status for order in found] == [0]


def test_a_node_that_falls_silent_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 1.0)
    thread = threading.Thread(
        target=lambda: Nodes(tmp_path, 2, 1).__enter__().__exit__(None, None, None)
    )
    thread.start()
    with Nodes(tmp_path, 2, 0) as leader:
        thread.join(20)
        leader.announce(("sft",))
        with pytest.raises(StageError, match="node 1 has not answered for 1 s"):
            leader.wait_for_followers()


def test_a_failure_is_blamed_on_the_node_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_BEAT_SECONDS", 2.5)
    own = StageError("RuntimeError: connection closed by peer")
    follower = Nodes(tmp_path, 2, 1)
    thread = threading.Thread(target=follower.__enter__)
    thread.start()
    with Nodes(tmp_path, 2, 0) as leader:
        thread.join(20)
        leader.announce(("sft",))
        assert leader.blame(own) is own
        follower.__exit__(None, None, None)
        assert str(leader.blame(own)) == f"node 1 has stopped answering; here: {own}"


def test_a_follower_of_an_earlier_run_leaves(tmp_path: Path) -> None:
    """Its leader was killed and started again before anybody noticed."""
    follower = Nodes(tmp_path, 2, 1)
    thread = threading.Thread(target=follower.__enter__)
    thread.start()
    with Nodes(tmp_path, 2, 0):
        thread.join(20)
    other = _follow(tmp_path, [])
    with Nodes(tmp_path, 2, 0) as leader:
        leader.announce(("sft",))
        with pytest.raises(StageError, match="node 0 was started again"):
            follower.next_order()
        follower.report("of no interest")
        leader.wait_for_followers()
        leader.dismiss(0)
        other.join(20)
    follower.__exit__(None, None, None)


def test_a_node_with_another_recipe_is_refused(tmp_path: Path) -> None:
    """A forgotten `--set` on one node."""
    (tmp_path / "recipe.yaml").write_text("run: {seed: 1}")
    run = RunFolder(Recipe.model_validate({"run": {"seed": 2}}), tmp_path)
    launch = Launch(tmp_path / "unused.yaml", nodes=2, node_rank=1)
    found: list[Exception] = []

    def follow() -> None:
        try:
            run_recipe(run, launch, RichScreen(Console()))
        except SetupError as error:
            found.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    with Nodes(tmp_path, 2, 0) as leader:
        leader.announce(("sft",))
        with pytest.raises(StageError, match=r"node 1: .* is not this node's recipe"):
            leader.wait_for_followers()
        thread.join(20)
    assert len(found) == 1
