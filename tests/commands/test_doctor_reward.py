"""`align doctor --reward`: a sound reward passes, and every planted fault is named by its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from align import cli
from align.commands.findings import Finding
from align.errors import InputError
from tests.commands.conftest import chat_rows, text_rows
from tests.inference.encoder_models import make_encoder
from tests.rewards.chat_stand_in import ChatStandIn

PLANTED = "tests.commands.planted.NaiveClassifier"
Doctor = Callable[..., tuple[int, dict[str, Finding]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """`doctor(score, data, *options)`: exit status and findings by name."""
    from align.commands import doctor_reward

    found: dict[str, Finding] = {}
    examine = doctor_reward.examine_reward

    def keep(*arguments: object) -> list[Finding]:
        findings = examine(*arguments)  # pyright: ignore[reportArgumentType]
        found.update({finding.name: finding for finding in findings})
        return findings

    monkeypatch.setattr(doctor_reward, "examine_reward", keep)

    def run(score: str, data: Path, *options: str) -> tuple[int, dict[str, Finding]]:
        recipe = tmp_path / "reward.yaml"
        recipe.write_text(f"score: {score}\n")
        status = cli.main(["doctor", "--reward", str(recipe), "--data", str(data), *options])
        return status, found

    return run


def test_sound_model_passes_every_check_but_chance(
    doctor: Doctor, chat_scorer: Path, write_rows: Callable[..., Path]
) -> None:
    data = write_rows("pairs.jsonl", chat_rows())
    status, found = doctor(f"{{name: reward_model, path: {chat_scorer}}}", data)
    assert status == 0
    levels = {name: finding.level for name, finding in found.items()}
    assert set(levels) == {
        *("opens", "scored", "tokens of reward_model", "values", "chosen > rejected", "length"),
        *("calibration", "batch size", "order", "padding", "trailing space", "end token"),
        *("long completions", "chat template"),
    }
    sound = ("opens", "scored", "tokens of reward_model", "values", "batch size", "order")
    assert {levels[name] for name in (*sound, "padding", "end token", "chat template")} == {"ok"}
    assert "12 of 12 samples" in found["scored"].found
    assert "longer ones fail" in found["long completions"].found
    assert '"prefer the longer" scores 1.000' in found["length"].found


def test_judge_behind_a_url_is_examined(doctor: Doctor, write_rows: Callable[..., Path]) -> None:
    """It rates by length: 1 for less than 12 characters, else 9."""
    data = write_rows("pairs.jsonl", text_rows())
    with ChatStandIn(lambda question: f"[[{1 if len(question) < 12 else 9}]]") as server:
        judge = (
            f"name: judge, url: '{server.url}', model: m, rubric: {{text: '{{{{ completion }}}}'}}"
        )
        status, found = doctor(f"{{{judge}}}", data, "--chat")
        assert status == 0
        assert found["chosen > rejected"].found.startswith("1.000")
        assert (found["batch size"].level, found["end token"].level) == ("ok", "ok")
        assert "tokens of judge" not in found
        variable = "token_variable: ALIGN_ABSENT"
        status, found = doctor(f"{{{judge}, {variable}}}", data, "--chat")
        assert (status, found["opens"].level) == (2, "FAIL")
        assert "ALIGN_ABSENT is not set" in found["opens"].found


def test_score_of_zeros_is_named(
    doctor: Doctor, copy_scorer: Path, write_rows: Callable[..., Path]
) -> None:
    tensors = load_file(copy_scorer / "model.safetensors")
    tensors["score.weight"].zero_()
    save_file(tensors, copy_scorer / "model.safetensors", {"format": "pt"})
    data = write_rows("pairs.jsonl", chat_rows())
    status, found = doctor(f"{{name: reward_model, path: {copy_scorer}}}", data)
    assert status == 2
    assert (found["values"].level, found["values"].found) == ("FAIL", "every score is 0")


@pytest.mark.parametrize(
    ("fault", "line", "says"),
    [
        ("pad_is_eos: true", "end token", "pad = eos"),
        ("ignores_mask: true", "padding", "wrong padding"),
        ("cut_at: 250", "long completions", "cut at its end"),
    ],
)
def test_planted_fault_fails_on_its_line(
    fault: str,
    line: str,
    says: str,
    doctor: Doctor,
    chat_scorer: Path,
    write_rows: Callable[..., Path],
) -> None:
    data = write_rows("pairs.jsonl", chat_rows())
    status, found = doctor(f"{{name: {PLANTED}, path: {chat_scorer}, {fault}}}", data)
    assert status == 2
    assert found[line].level == "FAIL" and says in found[line].remedy


def test_same_loop_without_a_fault_passes_those_lines(
    doctor: Doctor, chat_scorer: Path, write_rows: Callable[..., Path]
) -> None:
    data = write_rows("pairs.jsonl", chat_rows())
    _, found = doctor(f"{{name: {PLANTED}, path: {chat_scorer}}}", data)
    assert found["padding"].level == found["end token"].level == "ok"
    assert found["long completions"].found.startswith("read whole up to")


def test_double_beginning_is_named(
    doctor: Doctor, chat_scorer: Path, write_rows: Callable[..., Path]
) -> None:
    """The texts were rendered once already, so the template writes a second one."""
    rows = chat_rows()
    for row in rows[:4]:
        row["prompt"] = [{"role": "user", "content": "<bos>what is it"}]
    data = write_rows("pairs.jsonl", rows)
    status, found = doctor(f"{{name: reward_model, path: {chat_scorer}}}", data)
    tokens = found["tokens of reward_model"]
    assert status == 2 and tokens.level == "FAIL"
    assert tokens.found.startswith("8 of 12 rows hold the beginning-of-sequence token")


def test_plain_text_for_a_chat_model_needs_a_word(
    doctor: Doctor, chat_scorer: Path, write_rows: Callable[..., Path]
) -> None:
    """With --chat it is scored as the same turns are."""
    score = f"{{name: reward_model, path: {chat_scorer}}}"
    _, found = doctor(score, write_rows("chat.jsonl", chat_rows()))
    expected = found["values"].found
    _, found = doctor(score, write_rows("text.jsonl", text_rows()), "--chat")
    assert found["values"].found == expected
    _, found = doctor(score, write_rows("text.jsonl", text_rows()))
    assert found["values"].found != expected
    assert found["chat template"].found == "not used: the prompts are plain text"


def test_samples_that_are_too_long_fail_the_line(
    doctor: Doctor, chat_scorer: Path, write_rows: Callable[..., Path]
) -> None:
    """16 + 29 characters with headers and three special tokens fit 60 only for the short side."""
    data = write_rows("pairs.jsonl", chat_rows())
    status, found = doctor(f"{{name: reward_model, path: {chat_scorer}, max_length: 40}}", data)
    assert status == 2 and found["scored"].level == "FAIL"
    assert found["scored"].found.startswith("6 of 12 samples; ")
    assert "max_length = 40" in found["scored"].found
    assert found["chosen > rejected"].found == "no pair has two scores"


def test_verifier_that_runs_out_of_time_is_named(
    doctor: Doctor, write_rows: Callable[..., Path]
) -> None:
    """The tower of exponents keeps the real worker busy until the kernel ends it."""
    rows = [
        {"prompt": "2+2", "chosen": "#### 4", "rejected": "#### 5", "answer": "4"},
        {"prompt": "how many", "chosen": "$9^{9^{9^{9}}}$", "rejected": "#### 5", "answer": "1"},
    ]
    data = write_rows("pairs.jsonl", rows)
    _, found = doctor("{name: math_verify, timeout: 1.0, workers: 1}", data)
    assert found["time-outs"] == Finding(
        "time-outs",
        "warn",
        "1 of 4 samples",
        "raise the reward's timeout or give it workers: late is not wrong",
    )
    assert found["end token"].found == "the text alone is read"


def test_reward_of_length_is_seen_through(doctor: Doctor, write_rows: Callable[..., Path]) -> None:
    """The rejected side is always the shorter one, so a negative slope prefers it every time."""
    data = write_rows("pairs.jsonl", text_rows(20))
    status, found = doctor("{name: length, slope: -1.0}", data)
    assert status == 2 and found["chosen > rejected"].level == "FAIL"
    assert "is its sign turned?" in found["chosen > rejected"].remedy
    assert found["length"].level == "warn" and "correlation -1.00" in found["length"].found
    assert "scores 1.000 and agrees on 0%" in found["length"].found


def test_saturated_scores_are_named(doctor: Doctor, write_rows: Callable[..., Path]) -> None:
    """Chosen texts have 24 or 25 characters, rejected ones 7 or 8: with a limit of 24, half of all
    plus none are at the largest value.
    """
    rows = text_rows(12)
    for row in rows[:4]:
        row["rejected"] = f"{row['rejected']}, but who would know"
    data = write_rows("pairs.jsonl", [*rows, {"prompt": "p", "chosen": "abc", "rejected": "ab"}])
    _, found = doctor("{name: tests.commands.planted.Clipped, limit: 20}", data)
    assert found["values"].level == "warn"
    assert found["values"].found.endswith("are the largest")


def test_golden_cases_go_through_the_worker(
    doctor: Doctor, write_rows: Callable[..., Path]
) -> None:
    data = write_rows("pairs.jsonl", text_rows())
    cases = [
        {"prompt": "2+2", "completion": "it is 4", "answer": "4", "score": 1.0},
        {"prompt": "2+2", "completion": "it is 5", "answer": "4", "score": 1.0},
    ]
    score = "{name: math_verify, workers: 1}"
    golden = str(write_rows("golden.jsonl", cases[:1]))
    _, found = doctor(score, data, "--golden", golden)
    assert found["golden cases"] == Finding("golden cases", "ok", "1 of 1 score as expected")
    golden = str(write_rows("golden.jsonl", cases))
    status, found = doctor(score, data, "--golden", golden)
    assert status == 2
    assert found["golden cases"].found == "1 of 2 differ: case 2 is -1.0, not 1"


def test_reward_that_cannot_be_opened_is_one_line(
    doctor: Doctor, tiny_llama: Path, write_rows: Callable[..., Path]
) -> None:
    data = write_rows("pairs.jsonl", chat_rows())
    status, found = doctor(f"{{name: reward_model, path: {tiny_llama}}}", data)
    assert status == 2 and list(found) == ["opens"]
    assert "no head (score.weight)" in found["opens"].found


def test_recipe_without_pairs_or_reward_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("score: {name: length}\n")
    assert cli.main(["doctor", "--reward", str(recipe)]) == InputError.exit_status
    assert "--data FILE" in capsys.readouterr().err
    recipe.write_text("policy: {path: org/a}\n")
    assert cli.main(["doctor", "--reward", str(recipe), "--data", "x.jsonl"]) == 2
    assert "has no score" in capsys.readouterr().err
    recipe.write_text("score: {name: reward_model}\n")
    assert cli.main(["doctor", "--reward", str(recipe), "--data", "x.jsonl"]) == 2
    assert "--out" in capsys.readouterr().err


def test_an_encoder_is_examined_by_its_text(
    doctor: Doctor, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    """It reads no end token, so that scores without one are the same is no fault."""
    make_encoder("bert", tmp_path / "encoder")
    data = write_rows("pairs.jsonl", chat_rows())
    status, found = doctor(f"{{name: reward_model, path: {tmp_path / 'encoder'}}}", data)
    assert status == 0
    for name in ("opens", "scored", "tokens of reward_model", "values", "batch size", "order"):
        assert found[name].level == "ok", found[name]
    assert found["padding"].level == "ok"
    assert found["end token"].found == "the text alone is read"
    assert found["chat template"].found.startswith("with another: correlation")
