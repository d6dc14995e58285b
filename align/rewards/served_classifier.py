"""The opened reward model behind vLLM's `/classify` (0.31).

`use_activation: false` gives the raw logit; the server's default is its sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from align.data.fingerprint import local_folder
from align.errors import SetupError, StageError
from align.inference.encoders import holds_encoder
from align.inference.packing import TokenRow
from align.records import Json, Sample, Score
from align.rewards.classifier import verdict, weights_of
from align.rewards.endpoint import Kind, Refusal, open_endpoint
from align.rewards.heads import require_head
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.rows import RowEncoder, tokenizer_folder
from align.rewards.served_reward_model import ServedRewardModel

WHO = "served_reward_model"
SAME = 1e-9


class ServedScorer:
    """An open server and the tokenizer of its model."""

    def __init__(self, config: ServedRewardModel) -> None:
        if config.path is not None:
            folder = local_folder(config.path, config.server.revision)
            weights = weights_of(folder)
            require_head(weights)
            tokenizer = tokenizer_folder(folder, weights)
            if holds_encoder(local_folder(weights.base)):
                raise SetupError(
                    f"{WHO}: {config.path} is an encoder, which is scored in the stage's own "
                    "process; write {name: reward_model, path: ...}"
                )
        elif config.tokenizer is not None:
            tokenizer = local_folder(config.tokenizer.path)
        else:
            raise SetupError(f"{WHO}: names neither a server nor a model")
        self._encoder = RowEncoder(
            tokenizer, policy=config.policy, chat_template=config.chat_template
        )
        self.endpoint = open_endpoint(
            config, Kind(WHO, "/classify", "/classify", "pooling", read_logit)
        )
        self._must_try = config.url is not None

    @property
    def scores_ids(self) -> bool:
        """True where sampled ids are scored as they are."""
        return self._encoder.keeps_ids

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Raw logits; a sample that cannot be rendered, or that the server refuses (too long),
        fails.
        """
        rows = [
            [self._encoder.encode(group.prompt, sample) for sample in group.samples]
            for group in groups
        ]
        asked = [_body(row) for group in rows for row in group if isinstance(row, TokenRow)]
        if asked and self._must_try:
            self._try_activation(asked[0])
        answers = iter(self.endpoint.ask(asked))
        return [
            [
                failure(sample, f"{WHO}: {row}")
                if isinstance(row, str)
                else _score_of(sample, next(answers))
                for sample, row in zip(group.samples, rows_of_group, strict=True)
            ]
            for group, rows_of_group in zip(groups, rows, strict=True)
        ]

    def close(self) -> None:
        """Ends a server of our own."""
        self.endpoint.close()

    def _try_activation(self, body: Mapping[str, Json]) -> None:
        """Raises `StageError` where the server does not know `use_activation`: what it answers
        would be a probability.
        """
        raw, activated = self.endpoint.ask([body, {**body, "use_activation": True}])
        if isinstance(raw, Refusal) or isinstance(activated, Refusal):
            return  # said with the scores
        if math.isclose(cast(float, raw), cast(float, activated), abs_tol=SAME):
            raise StageError(
                f"{WHO}: the server answers the same with and without use_activation, so its "
                "scores are not raw logits; serve the model with vLLM 0.31 or later"
            )
        self._must_try = False


def _body(row: TokenRow) -> dict[str, Json]:
    ids = [*row.prompt_ids, *row.completion_ids]
    return {"input": ids, "use_activation": False, "add_special_tokens": False}


def _score_of(sample: Sample, answer: Json | Refusal) -> Score:
    if isinstance(answer, Refusal):
        return failure(sample, answer.reason)
    return verdict(sample, cast(float, answer))


def read_logit(data: Mapping[str, Json]) -> Json:
    """The only label's value; raises `ValueError` where there is not exactly one."""
    try:
        row = cast("Mapping[str, Json]", cast("Sequence[Json]", data["data"])[0])
        values = cast("Sequence[Json]", row["probs"])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the answer is no classification") from error
    if len(values) != 1 or not isinstance(values[0], int | float):
        raise ValueError(f"the model has {len(values)} labels, a reward model has one")
    return values[0]
