"""`align check` reads the data that lie here, and refuses what the run's steps would."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from align.cli import main
from align.commands.amounts import count_rows
from align.commands.local_data import FIRST, LARGE, data_problems
from align.commands.plan import make_plan
from align.data.convert import to_prompts
from align.data.sources import local_files, read_rows
from align.errors import DataError
from align.recipe.load import load_recipe
from align.recipe.parts import sources
from align.recipe.sections import Prompts, Recipe, Source

RECIPES = Path(__file__).parents[2] / "recipes"
POLICY = "policy: {path: org/sft}\n"
LOOP = f"""{POLICY}\
generate: {{name: vllm, n: 2}}
score: {{name: length}}
pair: {{name: max_min}}
train: {{objective: {{name: dpo}}, global_batch_size: 2}}
prompts: {{%s}}
evaluate:
  prompts: {{%s}}
"""
STORED = POLICY + "generate: {name: stored, %s}\nscore: {name: length}\n"
SFT = POLICY + "sft: {data: {%s}}\n"
REWARD = POLICY + "reward: {data: {%s}}\n"
DPO = POLICY + "train: {data: {%s}, objective: {name: dpo}, global_batch_size: 2}\n"
FILES = {
    "good.jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n',
    "more.jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n',
    "question.jsonl": '{"question": "a"}\n',
    "none.jsonl": "\n",
    "blank.jsonl": '{"prompt": " "}\n{"prompt": ""}\n',
    "number.jsonl": '{"prompt": 3}\n',
    "broken.jsonl": '{"prompt": "a"}\n{"promp',
    "array.json": '{"prompt": "a"}',
    "table.parquet": "PAR1",
    "parts/x.train.jsonl": '{"prompt": "a"}\n',
    "parts/x.test.jsonl": '{"prompt": "b"}\n{"prompt": "c"}\n',
    "notes/README.md": "",
    "shown.jsonl": '{"prompt": "a", "completion": "b"}\n',
    "several.jsonl": '{"prompt": "a", "completions": ["b", "c"], "scores": [1, 2]}\n',
    "unequal.jsonl": '{"prompt": "a", "completions": ["b", "c"], "scores": [1]}\n',
    "silent.jsonl": '{"prompt": "a", "completion": ""}\n',
    "compared.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
    "same.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "b"}\n',
    "labelled.jsonl": '{"prompt": "a", "completion": "b", "label": 0.7}\n',
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)


def _check(text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is wrong with a recipe, one line each; none where it is valid."""
    Path("x.yaml").write_text(text)
    status = main(["check", "x.yaml"])
    said = capsys.readouterr().err.splitlines()
    assert status == (2 if said else 0)
    return said


def _write(name: str, rows: Iterable[object]) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return name


def _of_prompts(**options: object) -> Recipe:
    return Recipe(prompts=Prompts.model_validate(options))


@pytest.mark.parametrize(
    "prompts",
    [
        "path: good.jsonl",
        "path: question.jsonl, columns: {prompt: question}",
        "path: parts",
        "path: parts/x, split: test",
        "path: compared.jsonl",
        "mix: [{path: good.jsonl}, {path: question.jsonl, columns: {prompt: question}}]",
        "mix: [{path: good.jsonl}, {path: org/prompts}]",
    ],
)
def test_prompts_that_are_as_they_should_be(
    prompts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _check(LOOP % (prompts, "path: org/prompts"), capsys) == []


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("path: question.jsonl", "question.jsonl:1: the columns ['question'] make no prompt"),
        ("path: none.jsonl", "none.jsonl has no rows in the split 'train'"),
        ("path: blank.jsonl", "nothing is left of what blank holds (2 read, 2 empty); look at its"),
        ("path: number.jsonl", "number.jsonl:1: column 'prompt' is int; expected text or a list"),
        ("path: broken.jsonl", "broken.jsonl:2: this line is not JSON"),
        ("path: array.json", "array.json: holds one dict; expected a list of rows"),
        ("path: table.parquet", "table.parquet: cannot be read"),
        ("path: notes", "notes holds no data files; expected .jsonl"),
        ("path: parts, split: dev", "parts holds no files of the split 'dev'; it holds x.test"),
        ("path: good.jsonl, split: dev", "good.jsonl is one file and its name does not say"),
        ("path: good.jsonl, split: 'train[2:]'", "good.jsonl has no rows in the split 'train[2:]'"),
        ("path: good.jsonl, split: 'train[x:]'", "split 'train[x:]' is not understood"),
        ("path: good.jsonl, columns: {prompt: q}", "good.jsonl:1: there is no column 'q'"),
    ],
)
def test_prompts_that_the_first_step_refuses(
    prompts: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever they stand, each with its line and key, at once."""
    first, second = _check(LOOP % (prompts, prompts), capsys)
    assert first.startswith("x.yaml:6: prompts.path: ") and says in first
    assert second.startswith("x.yaml:8: evaluate.prompts.path: ") and says in second


@pytest.mark.parametrize(
    ("text", "source", "says"),
    [
        (SFT, "path: shown.jsonl", None),
        (SFT, "path: compared.jsonl", None),
        (SFT, "path: good.jsonl", "sft.data.path: good.jsonl:2: a prompt without a completion"),
        (REWARD, "path: compared.jsonl", None),
        (REWARD, "path: shown.jsonl", "reward.data.path: shown.jsonl:1: expected chosen and rej"),
        (
            REWARD,
            "path: same.jsonl",
            "reward.data.path: nothing is left of what same holds (1 read",
        ),
        (DPO, "path: compared.jsonl", None),
        (DPO, "path: labelled.jsonl", "train.data.path: labelled.jsonl:1: the label is 0.7"),
        (DPO, "path: good.jsonl", "train.data.path: good.jsonl:2: a prompt without a completion"),
        (STORED, "path: several.jsonl", None),
        (STORED, "path: good.jsonl", "generate.path: good.jsonl:1: there is neither `completion`"),
        (STORED, "path: unequal.jsonl", "generate.path: unequal.jsonl:1: `scores` must be a list"),
        (STORED, "path: silent.jsonl", "generate.path: nothing is left of what silent holds"),
        (STORED, "path: notes", "generate.path: notes holds no data files"),
        (
            SFT,
            "name: pairwise, of: {path: same.jsonl}",
            "sft.data.of.path: same.jsonl: no preference is left to compare: 1 read, 1 identical",
        ),
        (
            SFT,
            "name: pairwise, of: {path: parts/x}",
            "sft.data.of.path: parts/x.train.jsonl:1: expected chosen and rejected",
        ),
        (
            SFT,
            "mix: [{path: shown.jsonl}, {path: none.jsonl}]",
            "sft.data.mix.1.path: none.jsonl has no rows",
        ),
        (
            SFT,
            "mix: [{path: org/demos}, {path: broken.jsonl}]",
            "sft.data.mix.1.path: broken.jsonl:2: this line is not JSON",
        ),
        (
            SFT,
            "mix: [{path: shown.jsonl}, {path: good.jsonl}]",
            "sft.data: good.jsonl:2: a prompt without a completion",
        ),
    ],
)
def test_each_section_reads_rows_of_its_own_kind(
    text: str, source: str, says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _check(text % source, capsys)
    if says is None:
        assert said == []
    else:
        assert len(said) == 1 and said[0].startswith(f"x.yaml:2: {says}")


def test_a_row_that_the_run_does_not_take_is_not_refused() -> None:
    """Of one good and one bad row a seed takes one, and it decides."""
    path = _write("half.jsonl", [{"prompt": "a"}, {"question": "b"}])
    source = Prompts(path=path, limit=1)
    found: list[bool] = []
    for seed in range(8):
        recipe = Recipe.model_validate({"run": {"seed": seed}, "prompts": source.model_dump()})
        (row,) = read_rows(source, seed=seed)
        found.append("prompt" in row.values)
        assert (data_problems(recipe) == []) == found[-1]
    assert set(found) == {True, False}


def test_of_a_large_file_the_first_rows_are_read() -> None:
    """A fault in row 1,000 is found, one in row 1,001 is not; a limit may leave either out."""
    rows = [{"prompt": f"{number} {'x' * (LARGE // FIRST)}"} for number in range(FIRST + 1)]
    small = {"question": "?"}
    late = _write("late.jsonl", [*rows[:FIRST], small])
    assert Path(late).stat().st_size > LARGE
    assert data_problems(_of_prompts(path=late)) == []
    early = _write("early.jsonl", [*rows[: FIRST - 1], small, rows[-1]])
    (problem,) = data_problems(_of_prompts(path=early))
    assert problem.message.startswith(f": early.jsonl:{FIRST}: the columns ['question'] make no")
    assert data_problems(_of_prompts(path=early, limit=5)) == []
    assert data_problems(_of_prompts(path=early, split="train[:5]")) == []
    (problem,) = data_problems(_of_prompts(path=early, split="dev", limit=5))
    assert "does not say that it is the split 'dev'" in problem.message
    with pytest.raises(DataError, match=r"late\.jsonl:1001"):
        to_prompts(read_rows(Source(path=late), seed=0))


def test_prompts_that_are_all_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    """More are evaluated on than are sampled for: none is left. One that is not suffices."""
    (line,) = _check(LOOP % ("path: good.jsonl", "path: more.jsonl"), capsys)
    assert line == (
        "x.yaml:8: evaluate.prompts holds all prompts of the loop, and none that is evaluated on "
        "is trained on; give others, e.g. by split: train[:10%]"
    )
    assert _check(LOOP % ("path: more.jsonl", "path: good.jsonl"), capsys) == []


def test_what_lies_here_is_neither_unverified_nor_uncounted() -> None:
    """The beginning of names in a folder looks like a Hub id; the split picks one of two files."""
    Path("x.yaml").write_text(SFT % "path: parts/x, split: test")
    recipe = load_recipe("x.yaml")
    assert make_plan(recipe).unverified == ["policy.path: org/sft"]
    assert recipe.sft is not None
    assert count_rows(recipe.sft.data, 0) == 2
    assert count_rows(Source(path="parts"), 0) == 1
    assert count_rows(Source(path="parts", split="train+test[1:]"), 0) == 1 + 1


def test_no_recipe_is_refused_with_the_data_that_it_asks_for(shared: Path) -> None:
    """Its placeholders `local/NAME` are the beginnings of the shared files' names."""
    Path("local").symlink_to(shared / "data")
    Path("recipes").symlink_to(RECIPES)
    read: set[str] = set()
    for path in sorted(RECIPES.rglob("*.yaml")):
        recipe = load_recipe(path)
        assert data_problems(recipe) == [], path
        named = [source for _, source in sources(recipe) if source.path is not None]
        if any(local_files(source.path or "", source.split) for source in named):
            read.add(f"{path.parent.name}/{path.stem}")
    assert {"kto/tiny", "zephyr/tiny", "rso/stories_rso", "tinystories/online_dpo"} <= read
