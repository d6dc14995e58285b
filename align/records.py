"""What moves through the house: one record is one parquet row (DESIGN: prompt -> sample -> score ->
pair).

A later record names an earlier one by id and the join happens on load, so tokens are stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Turn: TypeAlias = Mapping[str, Json]
"""`{"role": "user" | "assistant" | "system", "content": str}`; content may be a list with media
references.
"""

Finish = Literal["stop", "length"]


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values have equal text, so it can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_id(*parts: object) -> str:
    """First 16 hex digits of the SHA-256 of the parts' canonical JSON."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class WeightsRef:
    """Names weights: a base checkpoint (folder or Hub id) and, for LoRA, the adapter's folder on
    top of it.
    """

    base: str
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt; the id is a hash of `messages` and `answer`. Plain-text prompts are one `{"role":
    "text"}` turn.
    """

    prompt_id: str
    messages: tuple[Turn, ...]
    answer: Json = None
    """Reference answer, test cases, ... whatever the scorer needs."""
    source: str = ""
    """Name of the data set that it came from."""
    meta: Json = None

    @classmethod
    def of(
        cls,
        messages: Sequence[Turn] | str,
        *,
        answer: Json = None,
        source: str = "",
        meta: Json = None,
    ) -> Prompt:
        """A prompt with its content id; a string becomes one turn of role `text` (no template
        applies to it).
        """
        if isinstance(messages, str):
            messages = ({"role": "text", "content": messages},)
        turns = tuple(dict(turn) for turn in messages)
        return cls(content_id(turns, answer), turns, answer, source, meta)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as it was sampled (or imported): its tokens are what is trained on (I1)."""

    sample_id: str
    prompt_id: str
    index: int
    """Which of the prompt's samples this is, counted over all samplers of the stage."""
    policy: str
    """Fingerprint of the weights that wrote it; `""` where unknown (human data)."""
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Includes the end-of-sequence token if and only if it was generated."""
    loss_mask: tuple[int, ...]
    """1 on tokens that the policy wrote, 0 on tool and environment tokens; as long as
    `completion_ids`.
    """
    logps: tuple[float, ...] | None
    """Natural log-probs under the distribution actually sampled from; None where unknown."""
    text: str
    finish: Finish
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 means no cut."""
    seed: int = 0
    weight_versions: tuple[int, ...] = ()
    meta: Json = None


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one sample. A failure has `value` None and says why in `error`; it is never a
    number.
    """

    sample_id: str
    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Each source's own term, before weighting."""
    spans: tuple[tuple[int, int, float], ...] = ()
    """Token-aligned rewards as (first token, end token, value)."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples of one prompt, the first preferred; `margin` is the score difference (0 where
    unknown).
    """

    chosen: str
    rejected: str
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of one prompt's samples."""

    prompt_id: str
    sample_ids: tuple[str, ...]
    preferences: tuple[tuple[float, ...], ...]
    """P[i][j]: the probability that sample i is preferred to sample j; NaN where the judge failed.
    """


def sample_id(
    prompt_id: str,
    index: int,
    policy: str,
    completion_ids: Sequence[int],
    *,
    seed: int = 0,
) -> str:
    """Content id of a sample: same prompt, place, weights, seed and tokens, same id."""
    return content_id(prompt_id, index, policy, list(completion_ids), seed)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from (run seed, iteration, stage, prompt_id, sampler, index): independent of
    order and workers.
    """
    return int(hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16], 16) >> 1
