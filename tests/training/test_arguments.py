from pathlib import Path

import pytest
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from align.errors import RecipeError
from align.recipe.optimizers import PACKAGES
from align.training.arguments import batch_shape, build_arguments
from align.training.plan import Shape
from tests.training.material import make_job


def job_with(tmp_path: Path, **section: object):
    return make_job(
        tmp_path,
        tmp_path / "out",
        {"objective": {"name": "dpo"}, "global_batch_size": 12, **section},
    )


def test_batch_shape_gives_the_recipes_global_batch(tmp_path: Path) -> None:
    assert batch_shape(job_with(tmp_path), 1) == Shape(12, 1, 1)  # the CPU takes all at once
    assert batch_shape(job_with(tmp_path, micro_batch_size=2), 3) == Shape(2, 2, 3)
    assert batch_shape(job_with(tmp_path, micro_batch_size=2), 3).size == 12


def test_batch_shape_refuses_an_uneven_world_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"train.global_batch_size 12 cannot be shared by 5 processes; set it to 10 or 15",
    ):
        batch_shape(job_with(tmp_path), 5)


def test_batch_shape_refuses_a_micro_batch_that_does_not_divide(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"train.micro_batch_size 4 does not divide the 6 rows .*; set it to 3"
    ):
        batch_shape(job_with(tmp_path, micro_batch_size=4), 2)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("output_dir", "train.args.output_dir is filled in by the pipeline; the step's folder"),
        ("per_device_train_batch_size", "set global_batch_size"),
        ("save_strategy", "set save_steps"),
        (
            "lerning_rate",
            "train.args.lerning_rate is not an option of TrainingArguments; "
            'did you mean "learning_rate"',
        ),
    ],
)
def test_build_arguments_refuses_owned_and_unknown_keys(
    tmp_path: Path, key: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_arguments(TrainingArguments, job_with(tmp_path, args={key: 1}), Shape(1, 1, 1))


def test_build_arguments_fills_in_what_the_pipeline_owns(tmp_path: Path) -> None:
    job = job_with(tmp_path, args={"learning_rate": 1e-4, "save_steps": 7})
    args = build_arguments(
        TrainingArguments, job, Shape(3, 4, 1), defaults={"num_train_epochs": 1.0}
    )
    assert (args.learning_rate, args.save_steps, args.num_train_epochs) == (1e-4, 7, 1.0)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (3, 4)
    assert (args.output_dir, args.disable_tqdm, args.report_to) == (
        str(tmp_path / "out" / ".trainer"),
        True,
        [],
    )
    assert not args.bf16


@pytest.mark.parametrize(
    ("optimizer", "package"),
    [
        ("adamw_8bit", "bitsandbytes"),
        ("paged_lion_8bit", "bitsandbytes"),
        ("galore_adamw_layerwise", "galore-torch"),
        ("schedule_free_sgd", "schedulefree"),
    ],
)
def test_optimizer_of_a_missing_package_is_refused(
    tmp_path: Path, optimizer: str, package: str
) -> None:
    """transformers would find out when the weights are loaded."""
    job = job_with(tmp_path, args={"optim": optimizer})
    message = f"train.args.optim {optimizer} needs the package {package}.*; pip install {package}"
    with pytest.raises(RecipeError, match=message):
        build_arguments(TrainingArguments, job, Shape(12, 1, 1))


def test_fused_optimizer_is_taken(tmp_path: Path) -> None:
    job = job_with(tmp_path, args={"optim": "adamw_torch_fused"})
    assert build_arguments(TrainingArguments, job, Shape(12, 1, 1)).optim == "adamw_torch_fused"


def test_every_optimizer_of_another_package_is_known() -> None:
    """A name that transformers adds must be looked at: it either needs nothing or is in the table.

    These it makes itself, or they are for devices that are not ours.
    """
    own = {"adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused"}
    own |= {"adafactor", "sgd", "adagrad", "rmsprop"}
    named = {
        name.value
        for name in OptimizerNames
        if any(name.value.startswith(beginning) for beginning in PACKAGES)
    }
    assert {name.value for name in OptimizerNames} == own | named
