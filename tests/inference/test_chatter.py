from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from align.inference.chatter import chatter_to


def test_everything_written_to_the_screen_goes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "engine.log"
    os.write(1, b"before ")
    with pytest.raises(KeyError), chatter_to(log):
        os.write(1, b"from C\n")
        os.write(2, b"error from C\n")
        raise KeyError
    with chatter_to(log):
        os.write(1, b"more\n")
    os.write(2, b"after")
    assert log.read_text() == "from C\nerror from C\nmore\n"
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("before ", "after")


def test_python_streams_that_lead_elsewhere_go_to_the_log_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a test runner; a handler made inside keeps working, on the screen, afterwards."""
    log, elsewhere = tmp_path / "engine.log", io.StringIO()
    monkeypatch.setattr(sys, "stdout", elsewhere)
    with chatter_to(log):
        print("printed")
        handler = logging.StreamHandler(sys.stdout)
        handler.emit(logging.makeLogRecord({"msg": "inside"}))
    handler.emit(logging.makeLogRecord({"msg": "outside"}))
    assert log.read_text() == "printed\ninside\n"
    assert sys.stdout is elsewhere and elsewhere.getvalue() == ""
    assert capfd.readouterr().out == "outside\n"


def test_without_a_log_nothing_changes(capfd: pytest.CaptureFixture[str]) -> None:
    with chatter_to(None):
        sys.stdout.write("seen")
        sys.stdout.flush()
    assert capfd.readouterr().out == "seen"
