from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaModel
from trl import SFTTrainer

from align.data.fingerprint import tensor_hash
from align.errors import DataError, RecipeError
from align.models import load_causal
from align.recipe.sections import Recipe
from align.records import Prompt, WeightsRef
from align.training.job import Job
from align.training.sft import Demonstration, train_sft
from tests.training.driver import sums
from tests.training.material import SGD, relative_gap, update_of

ROWS = [
    (Prompt.of("1+1="), "2"),
    (Prompt.of("12+3="), "15"),
    (Prompt.of("7="), "7"),
    (Prompt.of("100+20="), "120"),
]


def run(model: Path, out: Path, rows: list[Demonstration], **section: object) -> dict[str, Any]:
    options = {"data": {"path": "made"}, "global_batch_size": 4, **section}
    recipe = Recipe.model_validate({"policy": {"path": str(model)}, "sft": options})
    assert recipe.sft is not None
    return train_sft(Job(recipe, recipe.sft, WeightsRef(str(model)), out, 0), rows)


def expected_update(model_folder: Path, rows: list[Demonstration]) -> torch.Tensor:
    """Minus the gradient of the mean NLL of the replies' tokens, the end token included, over all
    of them.
    """
    model = load_causal(WeightsRef(str(model_folder)))
    vocabulary = {symbol: 4 + place for place, symbol in enumerate("0123456789+-*/()=. ")}
    total, count = torch.zeros(()), 0
    for prompt, reply in rows:
        prompt_ids = [vocabulary[symbol] for symbol in str(prompt.messages[0]["content"])]
        ids = [*prompt_ids, *(vocabulary[symbol] for symbol in str(reply)), 2]
        logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        for place in range(len(prompt_ids), len(ids)):
            total, count = total - logps[place - 1, ids[place]], count + 1
    (total / count).backward()
    return torch.cat(
        [
            -p.grad.flatten().double()
            for _, p in sorted(model.named_parameters())
            if p.grad is not None
        ]
    )


@pytest.mark.parametrize("micro", [4, 1])
def test_only_replies_carry_loss_and_tokens_weigh_alike(
    tiny_llama: Path, tmp_path: Path, micro: int
) -> None:
    """I3 and ALGORITHMS 1.5c: token mean over the whole step, whatever the micro-batches."""
    run(tiny_llama, tmp_path / "out", ROWS, micro_batch_size=micro, args={**SGD, "max_steps": 1})
    assert (
        relative_gap(expected_update(tiny_llama, ROWS), update_of(tiny_llama, tmp_path / "out"))
        < 1e-5
    )


def test_packing_gives_the_same_update(tiny_llama: Path, tmp_path: Path) -> None:
    args = {**SGD, "max_steps": 1, "packing": True}
    run(tiny_llama, tmp_path / "out", ROWS, global_batch_size=1, max_length=64, args=args)
    assert (
        relative_gap(expected_update(tiny_llama, ROWS), update_of(tiny_llama, tmp_path / "out"))
        < 1e-5
    )


def test_packing_that_leaks_is_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that ignores where documents begin sees the first document from the second."""
    real = LlamaModel.forward

    def ignores_positions(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return real(
            self, *args, **{k: v for k, v in kwargs.items() if k in ("input_ids", "use_cache")}
        )

    monkeypatch.setattr(LlamaModel, "forward", ignores_positions)
    with pytest.raises(
        RecipeError, match=r"sft.args.packing packing lets documents see each other .* leave it out"
    ):
        run(tiny_llama, tmp_path / "out", ROWS, args={"packing": True})


def test_wrapped_packing_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"sft.args.packing_strategy wrapped lets documents see each other"
    ):
        run(
            tiny_llama,
            tmp_path / "out",
            ROWS,
            args={"packing": True, "packing_strategy": "wrapped"},
        )


def test_rows_that_are_too_long_are_counted(tiny_llama: Path, tmp_path: Path) -> None:
    """ "100+20=" and "120" with EOS are 11 tokens, "12+3=" and "15" eight."""
    result = run(tiny_llama, tmp_path / "out", ROWS, max_length=8, args={"max_steps": 1})
    assert (result["counts"]["too_long"], result["counts"]["trained_rows"]) == (1, 3)
    with pytest.raises(DataError, match="no demonstration is left"):
        run(tiny_llama, tmp_path / "none", ROWS, max_length=3)


def test_stop_by_score_ends_training_and_keeps_the_curve(tiny_llama: Path, tmp_path: Path) -> None:
    """All answers are "7", so the model soon samples it; held-out prompts are not trained on."""
    rows: list[Demonstration] = [(prompt, "7") for prompt, _ in sums(60)]
    stop = {"at": 0.9, "every": 5, "count": 20, "max_new_tokens": 3}
    args = {"learning_rate": 1e-2, "num_train_epochs": 100}
    result = run(tiny_llama, tmp_path / "out", rows, global_batch_size=40, stop=stop, args=args)
    counts, metrics = result["counts"], result["metrics"]
    curve = {
        int(k.rsplit("/", 1)[1]): v for k, v in metrics.items() if k.startswith("stop/exact_match/")
    }
    assert (counts["held_out"], counts["trained_rows"], counts["stopped_by_score"]) == (20, 40, 1)
    assert list(curve) == list(range(5, counts["steps"] + 1, 5))
    assert (
        curve[counts["steps"]]
        >= 0.9
        > max([v for s, v in curve.items() if s < counts["steps"]], default=0)
    )
    assert counts["steps"] < 100


def test_stop_is_the_same_after_a_kill(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5, with sampling in between: killed in step 8 with a checkpoint after 6."""
    rows = sums(60)
    stop = {"at": 0.99, "every": 3, "count": 20, "max_new_tokens": 3}
    args = {"learning_rate": 3e-3, "max_steps": 10, "save_steps": 6}
    options = {"global_batch_size": 8, "micro_batch_size": 4, "stop": stop, "args": args}
    whole = run(tiny_llama, tmp_path / "whole", rows, **options)
    real = SFTTrainer.training_step

    def stop_in_step_8(self: Any, *a: Any, **k: Any) -> torch.Tensor:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return real(self, *a, **k)

    monkeypatch.setattr(SFTTrainer, "training_step", stop_in_step_8)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llama, tmp_path / "halted", rows, **options)
    monkeypatch.undo()
    resumed = run(tiny_llama, tmp_path / "halted", rows, **options)
    assert tensor_hash(tmp_path / "halted") == tensor_hash(tmp_path / "whole")
    assert {k: v for k, v in resumed["metrics"].items() if k.startswith("stop")} == {
        k: v for k, v in whole["metrics"].items() if k.startswith("stop")
    }


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ({"at": 0.5, "score": "bleu"}, "sft.stop.score bleu is not known; use exact_match"),
        ({"at": 0.5, "count": 4}, "sft.stop.count 4 rows cannot be held out of 4"),
    ],
)
def test_stop_that_cannot_be_is_refused(
    tiny_llama: Path, tmp_path: Path, stop: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run(tiny_llama, tmp_path / "out", ROWS, stop=stop)


def test_lora_trains_an_adapter(tiny_llama: Path, tmp_path: Path) -> None:
    peft = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    options = {
        "data": {"path": "made"},
        "global_batch_size": 4,
        "args": {"learning_rate": 1e-2, "num_train_epochs": 10},
    }
    recipe = Recipe.model_validate({"policy": {"peft": peft}, "sft": options})
    assert recipe.sft is not None
    base = WeightsRef(str(tiny_llama))
    result = train_sft(Job(recipe, recipe.sft, base, tmp_path / "out", 0), ROWS)
    assert result["metrics"]["loss"] < result["metrics"]["loss/first"] - 0.1
    saved = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "adapter_model.safetensors" in saved
    assert not {"model.safetensors", "README.md"} & set(saved)


def test_reply_without_a_header_is_trained_where_a_pair_model_reads_it(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """`add_generation_prompt: false`: the first loss is -log p(reply) right behind the user's turn,
    without header, BOS and end token; with a header it is another one.
    """
    template = tmp_path / "turns.jinja"
    template.write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content + '=' if m.role == 'user' "
        "else '*' + m.content }}{% endfor %}{% if add_generation_prompt %}*{% endif %}"
    )
    model = load_causal(WeightsRef(str(tiny_llama)))
    place = {symbol: 4 + index for index, symbol in enumerate("0123456789+-*/()=. ")}
    asked, reply = "1+1=", "2"
    with torch.no_grad():
        logits = model(torch.tensor([[place[symbol] for symbol in asked]])).logits[0, -1]
    expected = -float(logits.log_softmax(-1)[place[reply]])
    rows: list[Demonstration] = [(Prompt.of([{"role": "user", "content": "1+1"}]), reply)]
    found = dict[bool, float]()
    for header in (False, True):
        section = {
            "data": {"path": "made"},
            "global_batch_size": 1,
            "add_generation_prompt": header,
            "args": {"max_steps": 1},
        }
        policy = {"path": str(tiny_llama), "chat_template": str(template)}
        recipe = Recipe.model_validate({"policy": policy, "sft": section})
        assert recipe.sft is not None
        job = Job(recipe, recipe.sft, WeightsRef(str(tiny_llama)), tmp_path / f"{header}", 0)
        found[header] = train_sft(job, rows)["metrics"]["loss/first"]
    assert found[False] == pytest.approx(expected, abs=1e-5)
    assert abs(found[True] - expected) > 1e-3
