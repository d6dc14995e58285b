"""I5: SIGKILL in every kind of stage, the same command again, the same content."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import contents, start_align

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.timeout(1500)]

MOMENTS = (
    ("sft", ".trainer/checkpoint-10/complete"),
    ("iter-000/samples", ".leases/part-*"),
    ("iter-000/checkpoint", ".trainer/checkpoint-2/complete"),
)
"""Step, and the file in its folder at whose sight `align run` is killed; `chaos.py` has more."""


def test_a_killed_run_ends_with_the_same_content(
    small_run: tuple[Path, str], small_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = ("run", small_recipe, "--out", out)
    for step, sight in MOMENTS:
        process = start_align(arguments)
        while not list((out / step).glob(sight)):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert not (out / step / "manifest.json").is_file()
    process = start_align(arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert contents(out) == contents(small_run[0])
