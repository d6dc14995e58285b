from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from tests.conftest import ROOT

FOLDER = ROOT / "accelerate_configs"
KINDS = {
    "cpu": "MULTI_GPU",
    "single_gpu": "NO",
    "ddp": "MULTI_GPU",
    "zero1": "DEEPSPEED",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
    "zero3_offload": "DEEPSPEED",
    "fsdp2": "FSDP",
}


def test_there_is_a_file_for_each_kind_of_launch() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_config_is_understood_by_accelerate(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert str(config.distributed_type).rsplit(".", 1)[-1] == KINDS[name]
    assert config.num_machines == 1
    # the recipe's dtype decides
    assert config.mixed_precision == "no"


@pytest.mark.parametrize(
    ("name", "stage"), [("zero1", 1), ("zero2", 2), ("zero3", 3), ("zero3_offload", 3)]
)
def test_zero_stage_is_that_of_the_name(name: str, stage: int) -> None:
    options = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["deepspeed_config"]
    assert options["zero_stage"] == stage
    assert (options["offload_optimizer_device"] == "cpu") == (name == "zero3_offload")
    assert options.get("zero3_save_16bit_model", False) == (stage == 3)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_has_a_comment_above_it_and_the_header_a_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert any("accelerate launch --config_file" in line for line in lines[:4])
    for before, line in pairwise(lines):
        if line and not line.lstrip().startswith("#"):
            assert before.lstrip().startswith("#"), line
