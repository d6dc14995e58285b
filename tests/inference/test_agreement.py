import logging

import pytest
import torch

from align.inference.agreement import find_layout, probe_rows
from align.inference.packing import TokenRow
from tests.inference.models import ARCHITECTURES, WINDOW, make_model

ROWS = [
    TokenRow([1, 7], [4]),
    TokenRow([1, 5, 6, 7, 8, 9, 3], [8, 9, 12, 4, 5, 2]),
    TokenRow([1, 5, 6, 7, 8, 9, 3], [5]),
]
STATE_SPACE = {
    "mamba": ("mamba", {}),
    "falcon_mamba": ("falcon_mamba", {}),
    # adds its own bias to the mask: no error, other numbers
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    # linear attention in every other layer
    "qwen3_next": ("qwen3_next", {}),
}


def test_probe_is_of_the_prompt_with_the_longest_row() -> None:
    """Of its two rows the longest, half of it, and the other."""
    half = TokenRow([1, 5, 6, 7, 8, 9, 3], [8, 9, 12])
    assert probe_rows(ROWS) == [half, ROWS[1], ROWS[2]]
    assert probe_rows(ROWS[:1]) == [TokenRow([1, 7], [4]), ROWS[0]]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_models_that_share_a_prefix_do(name: str) -> None:
    model = make_model(*ARCHITECTURES[name])
    assert find_layout(model, probe_rows(ROWS), 0) == "groups"


@pytest.mark.parametrize("name", STATE_SPACE)
def test_models_that_cannot_share_a_prefix_fall_back_to_rows_and_say_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(*STATE_SPACE[name])
    with caplog.at_level(logging.WARNING):
        assert find_layout(model, probe_rows(ROWS), 0) == "rows"
    assert "cannot be forwarded in groups" in caplog.text
    assert "falls back to rows of a prompt and one completion" in caplog.text


def test_window_that_the_config_hides_is_noticed() -> None:
    """The mask is made from the config; a model whose config says less than it does is caught by
    the probe, which is as long as the longest row.
    """
    model = make_model("mistral", WINDOW)
    plain = model.model.forward

    def windowed(*args: object, **kwargs: object) -> object:
        model.config.sliding_window = 5
        try:
            return plain(*args, **kwargs)
        finally:
            model.config.sliding_window = None

    model.config.sliding_window = None
    model.model.forward = windowed
    assert find_layout(model, probe_rows(ROWS), 0) == "rows"


def test_head_that_does_more_than_is_known_is_left_to_the_model() -> None:
    """Its forward adds a bias after the LM head, so only its own logits are right."""
    model = make_model(*ARCHITECTURES["llama"])
    kind = type(model)

    class Biased(kind):
        def forward(self, *args: object, **kwargs: object) -> object:
            outputs = kind.forward(self, *args, **kwargs)
            outputs.logits = outputs.logits + torch.arange(40)
            return outputs

    model.__class__ = Biased
    assert find_layout(model, probe_rows(ROWS), 0) == "plain"
