"""A scalar reward model behind vLLM's `/classify`: token ids in, the raw logit out. The work is in
`served_classifier.py`, which imports the tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from align.rewards.serving_options import Place, Requests, Server, check_target

if TYPE_CHECKING:
    from align.rewards.served_classifier import ServedScorer


@dataclass(frozen=True)
class Tokenizer:
    """Of the model at `url`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: str
    """Hub id or folder."""


@dataclass(frozen=True)
class ServedRewardModel:
    """The scores of `reward_model`, which they equal up to the numerics of vLLM: the sampled ids
    where the tokenizer is the policy's, else the text rendered here, in each case sent as ids.
    """

    url: str | None = None
    """Root of a vLLM server that pools, e.g. `http://host:8000`."""
    path: str | None = None
    """Or hub id or folder of a sequence classifier with one label, which the stage serves."""
    model: str | None = None
    """Name under which the server at `url` has the model."""
    token_variable: str | None = None
    """Name of the environment variable whose value is sent to `url` as bearer token; it is never
    logged."""
    tokenizer: Tokenizer | None = None
    """`path` of the tokenizer of the model at `url`; that of `path` is its own."""
    chat_template: str | None = None
    """For text that is rendered anew: as `policy.chat_template`."""
    policy: str | None = None
    """As in `reward_model`; filled in by the stage."""
    requests: Requests = field(default_factory=Requests)
    """`connections`, `timeout`, `retries`, `unanswered`, `prices`."""
    server: Server = field(default_factory=Server)
    """How `path` is served."""
    place: Place | None = None
    """Filled in by the stage."""

    def __post_init__(self) -> None:
        check_target(self)
        if self.url is not None and self.tokenizer is None:
            raise ValueError("url needs tokenizer: {path: ...} of the model behind it")
        if self.path is not None and self.tokenizer is not None:
            raise ValueError("tokenizer is for a url; path brings its own")

    def open(self) -> ServedScorer:
        """Starts vLLM where `path` is given; `SetupError` where that is no reward model."""
        from align.rewards.served_classifier import ServedScorer

        return ServedScorer(self)
