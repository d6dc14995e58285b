"""The forward that ends in log-probs: each architecture's packed rows against unpadded forwards of
its own, one row at a time (I3).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from align.inference import head
from align.inference.head import LogitRule, forward_packed, install_head, token_values
from align.inference.packing import Line, TokenRow, pack_rows, single_lines
from tests.inference.models import ARCHITECTURES, make_model

ROWS = [
    TokenRow([1, 5, 6, 7, 8, 9, 3], [8, 9, 12, 4, 5, 2]),
    TokenRow([1, 5, 6, 7, 8, 9, 3], [5], 0.5),
    TokenRow([1, 5, 6, 7, 8, 9, 3], [10, 11, 12, 13, 4, 5, 2, 9], 2.0),
    TokenRow([1, 4, 4], [6, 6, 7]),
    TokenRow([1, 4, 4], [9, 6, 3, 2, 1, 12, 13]),
]
LAYOUTS: dict[str, list[Line]] = {
    "rows": single_lines(5),
    "groups": [[[0, 1, 2]], [[3, 4]]],
    "one line": [[[3, 4], [0, 1, 2]]],
    "split": [[[0, 2]], [[1], [3]], [[4]]],
}
BOTH = frozenset({"entropy", "sum_p_squared"})


def alone(model: torch.nn.Module, row: TokenRow) -> Tensor:
    """The log-softmax (T, V) that scores each completion token, by one unpadded plain forward."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
    return (logits / row.temperature).log_softmax(-1)


def weights(rows: Sequence[TokenRow]) -> list[Tensor]:
    """Any coefficients of a scalar function of all log-probs."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(row.completion_ids), generator=generator) for row in rows]


def gradient(model: torch.nn.Module, value: Tensor) -> Tensor:
    """Of all trainable parameters, as one vector."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(parameters, found, strict=True)
        ]
    )


def by_definition(model: torch.nn.Module) -> tuple[list[Tensor], Tensor]:
    """Each row's log-probs and the gradient of their weighted sum."""
    logps = [
        alone(model, row).gather(-1, torch.tensor(row.completion_ids)[:, None])[:, 0]
        for row in ROWS
    ]
    total = sum((w * values).sum() for w, values in zip(weights(ROWS), logps, strict=True))
    assert isinstance(total, Tensor)
    return [values.detach() for values in logps], gradient(model, total)


def by_packing(
    model: torch.nn.Module, lines: list[Line], widest: int = 0
) -> tuple[list[Tensor], Tensor]:
    install_head(model)
    outputs = forward_packed(model, pack_rows(ROWS, lines, 0), widest=widest)
    logps = [outputs.logps[i, : len(row.completion_ids)] for i, row in enumerate(ROWS)]
    total = sum((w * values).sum() for w, values in zip(weights(ROWS), logps, strict=True))
    assert isinstance(total, Tensor)
    return [values.detach() for values in logps], gradient(model, total)


def check_same(found: tuple[list[Tensor], Tensor], expected: tuple[list[Tensor], Tensor]) -> None:
    for left, right in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=0)
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layout_has_the_gradient_of_rows_alone(name: str) -> None:
    model = make_model(*ARCHITECTURES[name])
    expected = by_definition(model)
    assert float(expected[1].norm()) > 0.1
    for lines in LAYOUTS.values():
        check_same(by_packing(model, lines), expected)


def test_group_of_one_is_a_row() -> None:
    model = make_model(*ARCHITECTURES["mistral"])
    install_head(model)
    with torch.no_grad():
        found = forward_packed(model, pack_rows(ROWS[2:3], [[[0]]], 0)).logps[0]
        expected = alone(model, ROWS[2])
    ids = torch.tensor(ROWS[2].completion_ids)
    torch.testing.assert_close(found, expected.gather(-1, ids[:, None])[:, 0], atol=2e-5, rtol=0)


def test_model_still_answers_as_before() -> None:
    model = make_model(*ARCHITECTURES["llama"])
    ids = torch.tensor([[1, 5, 6]])
    before = model(input_ids=ids).logits
    install_head(model)
    install_head(model)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_eager_attention_takes_the_same_masks() -> None:
    model = make_model(*ARCHITECTURES["gemma3"])
    model.set_attn_implementation("eager")
    expected = by_definition(model)
    for lines in LAYOUTS.values():
        check_same(by_packing(model, lines), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["attention", "head", "saved head"],
)
def test_adapters_take_part_on_the_head_too(options: dict[str, list[str]]) -> None:
    model = get_peft_model(
        make_model(*ARCHITECTURES["llama"]),
        LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **options),
    )
    expected = by_definition(model)
    for lines in LAYOUTS.values():
        check_same(by_packing(model, lines), expected)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = make_model(*ARCHITECTURES["gemma3"])
    expected = by_definition(model)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    check_same(by_packing(model, LAYOUTS["one line"]), expected)


@pytest.mark.parametrize("widest", [0, 60])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, widest: int) -> None:
    """25 completion tokens, 4 a chunk (7 calls of the head); another rank with 60 makes it 15, and
    some of ours are a token or two.
    """
    model = make_model(*ARCHITECTURES["gemma2"])
    expected = by_definition(model)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 4 * 40)
    calls = []
    handle = model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    check_same(by_packing(model, LAYOUTS["groups"], widest), expected)
    handle.remove()
    # each chunk's logits are computed once for the value and once for the gradient
    assert len(calls) == 2 * (15 if widest else 7)


def test_more_chunks_than_tokens_still_have_a_gradient() -> None:
    """Under ZeRO-3 a rank with two tokens calls the head as often as one with many."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 6)
    hidden = torch.randn(2, 4, requires_grad=True)
    targets = torch.tensor([3, 5])
    found = token_values(module, hidden, targets, None, LogitRule(), BOTH, chunks=5)
    whole = token_values(module, hidden, targets, None, LogitRule(), BOTH)
    for name in ("logps", "entropy", "sum_p_squared"):
        torch.testing.assert_close(found[name], whole[name])
    found["logps"].sum().backward()
    grad = module.weight.grad
    assert grad is not None
    module.weight.grad = None
    whole["logps"].sum().backward()
    torch.testing.assert_close(grad, module.weight.grad)


def test_values_of_a_token_by_hand() -> None:
    """Logits (0, ln 3) at temperature 1: p = (1/4, 3/4), entropy ln 4 - 3/4 ln 3 = 0.562335,
    sum p^2 = 10/16. At temperature 1/2 logits double: p = (1/10, 9/10).
    """
    logits = torch.tensor([[0.0, 1.0986123], [0.0, 1.0986123]])
    found = token_values(
        torch.nn.Identity(),
        logits,
        torch.tensor([1, 0]),
        torch.tensor([1.0, 0.5]),
        LogitRule(),
        BOTH,
    )
    assert found["logps"].tolist() == pytest.approx([-0.287682, -2.302585], abs=1e-6)
    assert found["entropy"].tolist() == pytest.approx([0.562335, 0.325083], abs=1e-6)
    assert found["sum_p_squared"].tolist() == pytest.approx([0.625, 0.82], abs=1e-6)


def test_logits_are_scaled_then_capped() -> None:
    """2 tanh(6 * 0.5 / 2) = 2 tanh(1.5) = 1.810297."""
    assert float(LogitRule(0.5, 2.0)(torch.tensor(6.0))) == pytest.approx(1.810297, abs=1e-6)
    rules = {
        name: LogitRule.of(make_model(*ARCHITECTURES[name]).config)
        for name in ("granite", "gemma2", "llama")
    }
    assert rules["granite"].scale == pytest.approx(1 / 3)
    assert rules["gemma2"] == LogitRule(1.0, 3.0)
    assert rules["llama"] == LogitRule()


def test_bfloat16_is_normalised_in_float32() -> None:
    """Log-probs of all tokens sum to 1 within float32, whatever the type of the weights."""
    model = make_model(*ARCHITECTURES["llama"]).to(torch.bfloat16)
    install_head(model)
    rows = [TokenRow([1, 5, 6], [token]) for token in range(40)]
    with torch.no_grad():
        logps = forward_packed(model, pack_rows(rows, [[list(range(40))]], 0)).logps
    assert logps.dtype == torch.float32
    assert float(logps.exp().sum()) == pytest.approx(1.0, abs=1e-5)
