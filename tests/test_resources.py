from __future__ import annotations

from pathlib import Path

import pytest

from align import resources
from align.errors import SetupError

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_finds_its_own_folders() -> None:
    assert resources.recipes() == ROOT / "recipes"
    assert resources.accelerate_config("zero3") == ROOT / "accelerate_configs" / "zero3.yaml"


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SetupError, match=r'no launch file is called "zero_3".*"zero3"\?'):
        resources.accelerate_config("zero_3")


def test_an_installed_package_prefers_the_files_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "align")
    with pytest.raises(SetupError, match="recipes/ is neither in the installed package"):
        resources.recipes()
    (tmp_path / "recipes").mkdir()
    assert resources.recipes() == tmp_path / "recipes"
    carried = tmp_path / "align" / "_shipped" / "recipes"
    carried.mkdir(parents=True)
    assert resources.recipes() == carried
