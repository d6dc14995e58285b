"""`align show`: rows as they are, and where one came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.cli import main
from align.data.shards import write_part
from align.records import Judgement, Score


@pytest.mark.parametrize("text", ["one [/INST] two", "[red]three[/red]", "a [INST] b"])
def test_rows_are_shown_as_they_stand_brackets_and_all(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chat templates write `[/INST]`, which rich takes for the end of markup that nobody began."""
    write_part(tmp_path / "scores", 0, [Score("s0", None, error=text)], Score)
    assert main(["show", str(tmp_path / "scores")]) == 0
    assert repr(text) in capsys.readouterr().out
    assert main(["show", str(tmp_path), "--id", "s0"]) == 0
    found = capsys.readouterr().out
    assert "scores/part-00000.parquet" in found and repr(text) in found


def test_an_id_that_no_row_carries_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_part(tmp_path / "scores", 0, [Score("s0", 1.0)], Score)
    assert main(["show", str(tmp_path), "--id", "s1"]) == 2
    assert capsys.readouterr().err == f"no row under {tmp_path} carries the id s1\n"


def test_a_judges_matrix_is_shown_and_found_by_its_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judgement = Judgement("p", ("a", "b"), ((0.5, 0.75), (0.25, 0.5)))
    write_part(tmp_path / "judgements", 0, [judgement], Judgement)
    assert main(["show", str(tmp_path / "judgements")]) == 0
    assert "((0.5, 0.75), (0.25, 0.5))" in capsys.readouterr().out
    assert main(["show", str(tmp_path), "--id", "b"]) == 0
    assert "judgements/part-00000.parquet" in capsys.readouterr().out
