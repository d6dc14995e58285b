"""`args` and `peft` against the libraries' own config classes, and paths against the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from align.errors import RecipeError, RecipeErrors
from align.recipe.environment import OWNED, is_local, missing_files, unset_variables
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe

SFT = "policy: {path: org/a}\nsft:\n  data: {path: org/b}\n  args:\n    %s\n"
REWARD = "policy: {path: org/a}\nreward:\n  data: {path: org/b}\n  args:\n    %s\n"
TRAIN = (
    "policy: {path: org/a}\ntrain:\n  data: {path: org/b}\n  objective: {name: dpo}\n"
    "  global_batch_size: 8\n  args:\n    %s\n"
)
CONFIG = (
    "policy:\n  config: %s\n  tokenizer: {kind: characters, alphabet: ab}\n"
    "sft: {data: {path: org/b}}\n"
)
PEFT = "policy:\n  path: org/a\n  peft:\n    %s\nsft: {data: {path: org/b}}\n"


def load(tmp_path: Path, text: str) -> RecipeError | None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    try:
        load_recipe(path, environment=True)
    except RecipeError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("text", "args"),
    [
        (SFT, "{learning_rate: 5e-7, packing: true, lr_scheduler_type: cosine, warmup_steps: 0.1}"),
        (SFT, "{optim: adafactor, logging_steps: 1, lr_scheduler_kwargs: {num_cycles: 2}}"),
        (REWARD, "{center_rewards_coefficient: 0.01, num_train_epochs: 1}"),
        (TRAIN, "{learning_rate: 1e-6, max_grad_norm: 1, gradient_checkpointing: true}"),
        (PEFT, "{r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj], lora_dropout: 0.0}"),
        (PEFT, "{target_modules: all-linear}"),
    ],
)
def test_what_the_library_takes_is_right(text: str, args: str, tmp_path: Path) -> None:
    assert load(tmp_path, text % args) is None


@pytest.mark.parametrize(
    ("text", "args", "line", "key", "says", "remedy"),
    [
        (PEFT, "r: 0", 4, "policy.peft.r", "must be at least 1, not 0", "e.g. 16"),
        (
            TRAIN,
            "num_train_epochs: 0",
            7,
            "train.args.num_train_epochs",
            "must be above 0, not 0",
            "a fraction trains on a part",
        ),
        (
            SFT,
            "learning_rate: -1e-5",
            5,
            "sft.args.learning_rate",
            "must be at least 0, not -1e-05",
            "change it",
        ),
        (
            SFT,
            "learning_rat: 1e-5",
            5,
            "sft.args.learning_rat",
            "is not a field of trl.SFTConfig",
            'did you mean "learning_rate"?',
        ),
        (
            REWARD,
            "center_reward_coefficient: 0.1",
            5,
            "reward.args.center_reward_coefficient",
            "is not a field of trl.RewardConfig",
            '"center_rewards_coefficient"',
        ),
        (
            TRAIN,
            "packing: true",
            7,
            "train.args.packing",
            "is not a field of transformers.TrainingArguments",
            "see the documentation",
        ),
        (
            TRAIN,
            'learning_rate: "5e-7"',
            7,
            "train.args.learning_rate",
            'must be a number, not the text "5e-7"',
            "write it without quotes",
        ),
        (SFT, "max_steps: 1.5", 5, "sft.args.max_steps", "must be a whole number", "change"),
        (
            SFT,
            "optim: adafactr",
            5,
            "sft.args.optim",
            "must be one of the choices of trl.SFTConfig",
            '"adafactor"',
        ),
        (
            SFT,
            "optim: paged_adamw_8bit",
            5,
            "sft.args.optim",
            "needs the package bitsandbytes, which is not installed here",
            "pip install bitsandbytes",
        ),
        (SFT, "packing: 3", 5, "sft.args.packing", "must be true or false", "change"),
        (PEFT, "rank: 8", 4, "policy.peft.rank", "is not a field of peft.LoraConfig", '"'),
        (PEFT, "r: big", 4, "policy.peft.r", "must be a whole number", "change"),
    ],
)
def test_what_the_library_refuses_is_located(
    text: str, args: str, line: int, key: str, says: str, remedy: str, tmp_path: Path
) -> None:
    error = load(tmp_path, text % args)
    assert error is not None and (error.line, error.key) == (line, key), str(error)
    assert len(error.errors) == 1
    assert says in error.message and remedy in (error.remedy or "")


@pytest.mark.parametrize("owned", [*OWNED, "hub_token", "hub_model_id"])
def test_keys_of_the_pipeline_are_refused_with_ours(owned: str, tmp_path: Path) -> None:
    error = load(tmp_path, TRAIN % f"{owned}: secret")
    assert error is not None and (error.line, error.key) == (7, f"train.args.{owned}")
    assert error.message == "is set by align and cannot stand in args"
    expected = OWNED.get(owned, "use publish").format(section="train")
    assert error.remedy == expected
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "{model_type: lama}",
            'model_type is the text "lama", which transformers does not know; did you mean '
            '"llama"?',
        ),
        (
            "{model_type: llama, hiden_size: 64}",
            'hiden_size is not an option of llama; did you mean "hidden_size"?',
        ),
    ],
)
def test_a_model_config_is_checked_key_by_key(config: str, expected: str, tmp_path: Path) -> None:
    """Transformers would keep the misspelt key and make the model with its default."""
    error = load(tmp_path, CONFIG % config)
    assert str(error) == f"{tmp_path / 'x.yaml'}:2: policy.config.{expected}"


def test_a_model_config_of_wrong_values_is_refused(tmp_path: Path) -> None:
    assert load(tmp_path, CONFIG % "{model_type: llama, hidden_size: 64}") is None
    error = load(tmp_path, CONFIG % "{model_type: llama, hidden_size: wide}")
    assert error is not None and error.key == "policy.config" and error.line == 2
    assert "is no configuration of llama" in error.message and "hidden_size" in error.message


def test_args_are_left_alone_without_environment(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SFT % "learning_rat: 1")
    assert load_recipe(path).sft is not None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("policy: {path: ./nowhere}\nsft: {data: {path: org/b}}\n", "policy.path"),
        ("policy: {path: org/a}\nsft: {data: {path: data/nowhere.jsonl}}\n", "sft.data.path"),
        (
            "policy: {path: org/a}\nsft: {data: {mix: [{path: a/b}, {path: /no/x.parquet}]}}\n",
            "sft.data.mix.1.path",
        ),
        ("generate: {name: stored, path: runs/x/iter-000/samples}\n", "generate.path"),
        (
            "generate: {name: stored, path: org/a}\nscore: {name: lexicon, path: w/vader.tsv}\n",
            "score.path",
        ),
        (
            "generate: {name: stored, path: org/a}\nscore: {name: lexicon, path: ~/nowhere}\n",
            "score.path",
        ),
        (
            "policy: {path: org/a, chat_template: my.jinja}\nsft: {data: {path: org/b}}\n",
            "policy.chat_template",
        ),
    ],
)
def test_local_paths_must_exist(text: str, key: str, tmp_path: Path) -> None:
    error = load(tmp_path, text)
    assert error is not None and error.key == key and len(error.errors) == 1
    assert "does not exist" in error.message
    assert str(Path.cwd()) in (error.remedy or "")


def test_hub_ids_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").mkdir()
    local = {
        path: is_local(path) for path in ("gpt2", "org/name", "runs/a", "./b", "a/b/c", "x.json")
    }
    assert local == {
        "gpt2": False,
        "org/name": False,
        "runs/a": True,
        "./b": True,
        "a/b/c": True,
        "x.json": True,
    }


def test_keys_are_not_looked_up_again_where_the_run_began(tmp_path: Path) -> None:
    """Files are, and so are the keys beside any other problem: all is reported at once."""
    path = tmp_path / "x.yaml"
    path.write_text(SFT % "{lerning_rate: 5e-7}")
    recipe = load_recipe(path, environment=True, began=lambda recipe: recipe.run.name == "x")
    assert recipe.sft is not None and recipe.sft.args == {"lerning_rate": 5e-7}
    with pytest.raises(RecipeError, match="lerning_rate"):
        load_recipe(path, environment=True, began=lambda recipe: False)
    with pytest.raises(RecipeError, match=r'"\./no.jsonl" does not exist'):
        load_recipe(path, ["sft.data.path=./no.jsonl"], environment=True, began=lambda recipe: True)
    wrong = ["run.iterations=2"]
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(path, wrong, environment=True, began=lambda recipe: True)
    assert [error.key for error in caught.value.errors] == [
        "--set run.iterations",
        "sft.args.lerning_rate",
    ]


def test_rubrics_that_are_missing_and_tokens_that_are_not_set_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = {"name": "judge", "token_variable": "ALIGN_ABSENT", "rubric": {"path": "./no.txt"}}
    recipe = Recipe.model_validate(
        {
            "score": [{"name": "clip", "of": judge}, {"name": "length"}],
            "pair": {"name": "max_min", "judge": {"name": "http", "token_variable": "ALIGN_SET"}},
        }
    )
    monkeypatch.setenv("ALIGN_SET", "x")
    (problem,) = missing_files(recipe)
    assert problem.key == ("score", 0, "of", "rubric", "path")
    (line,) = unset_variables(recipe)
    assert line.startswith("score.0.of.token_variable: the environment variable ALIGN_ABSENT is")
    monkeypatch.delenv("ALIGN_SET")
    assert unset_variables(recipe)[1].startswith("pair.judge.token_variable: ")


@pytest.mark.parametrize(
    ("score", "key", "says"),
    [
        ("{name: python, function: nodots}", "score.function", '"nodots" is no dotted name'),
        ("{name: python, function: nowhere.f}", "score.function", "there is no module nowhere"),
        (
            "{name: clip, of: {name: python, function: nowhere.f}, low: 0}",
            "score.of.function",
            "there is no module nowhere",
        ),
        ("{name: python, function: json.dumps}", None, ""),
    ],
)
def test_functions_of_rewards_are_looked_for(
    score: str, key: str | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "policy: {path: org/a}\nprompts: {path: org/b}\ngenerate: {name: vllm, n: 2}\n"
        f"score: {score}\n"
    )
    if key is None:
        load_recipe(path, environment=True)
        return
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, environment=True)
    assert (caught.value.line, caught.value.key) == (4, key)
    assert says in caught.value.message


@pytest.mark.parametrize("repo", ["not a repo", "a/b/c", "org/.hidden", "org/a--b", "o/x.git"])
def test_a_name_that_the_hub_refuses(repo: str, tmp_path: Path) -> None:
    """It would be refused after the last iteration."""
    with pytest.raises(HFValidationError):
        validate_repo_id(repo)
    args = f"learning_rate: 1e-5\npublish: {{repo: {repo}}}"
    error = load(tmp_path, SFT % args)
    assert error is not None and error.key == "publish.repo" and error.line == 6
    assert "is no name of a repository" in error.message
    assert load(tmp_path, SFT % args.replace(repo, "org/my-model")) is None
