"""I5: SIGKILL in every kind of stage, the same command again, the same content."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import contents, start_align

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.timeout(1500)]

MOMENTS = (("sft", 4.0), ("iter-000/samples", 4.0), ("iter-000/checkpoint", 5.0))
"""Step, and seconds after it began at which `align run` is killed; `chaos.py` has more."""


def test_a_killed_run_ends_with_the_same_content(
    small_run: tuple[Path, str], small_recipe: Path, tmp_path: Path
) -> None:
    out, killed = tmp_path / "killed", []
    arguments = ("run", small_recipe, "--out", out)
    for step, seconds in MOMENTS:
        process = start_align(arguments)
        if _kill_in(process, out / step, seconds):
            killed.append(step)
    process = start_align(arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert len(killed) >= 2, f"the run was killed in {killed} only"
    assert contents(out) == contents(small_run[0])


def _kill_in(process, folder: Path, seconds: float) -> bool:
    """Kills when the step has been under way for `seconds`; False where it was over before."""
    began: float | None = None
    while process.poll() is None:
        if (folder / "manifest.json").is_file():
            break
        if began is None and (folder / "pending.json").is_file():
            began = time.monotonic()
        if began is not None and time.monotonic() - began >= seconds:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return not (folder / "manifest.json").is_file()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return False
