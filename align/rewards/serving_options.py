"""Options that the rewards behind a model server share: where it is, how it is asked, what it
costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Protocol
from urllib.parse import urlsplit

from annotated_types import Ge, Gt
from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid")
OWNED = {
    "model": "use model",
    "messages": "use rubric",
    "n": "a question has one verdict",
    "stream": "answers are read whole",
    "logprobs": "use expected",
    "top_logprobs": "use expected",
}
"""Fields of a request that are ours, and what says the same."""


@dataclass(frozen=True)
class Prices:
    """In any currency, for a million tokens."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompt: Annotated[float, Ge(0)]
    completion: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True)
class Requests:
    """How a server is asked; none of it decides what it answers."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    connections: Annotated[int, Ge(1)] = 32
    """Requests at a time."""
    timeout: Annotated[float, Gt(0)] = 300.0
    """Seconds for one whole answer."""
    retries: Annotated[int, Ge(0)] = 6
    """After a timeout, a lost connection, status 429 or a server's error."""
    unanswered: Literal["stop", "fail"] = "stop"
    """After the last try: `stop` ends the stage, and the same command goes on from there; `fail`
    fails the sample and goes on."""
    prices: Prices | None = None
    """With them the manifest says what the stage has cost."""


@dataclass(frozen=True)
class Server:
    """How the stage serves `path` by vLLM: one server a worker of the stage, on a free port of this
    machine.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    revision: str | None = None
    """Of a Hub id: branch, tag or commit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    tensor_parallel: Annotated[int, Ge(1)] = 1
    """Devices that share one copy of the model."""
    max_model_len: Annotated[int, Ge(2)] | None = None
    """Context in tokens; default: the model's own."""
    trust_remote_code: bool = False
    start_seconds: Annotated[float, Gt(0)] = 900.0
    """For loading the model."""
    engine: dict[str, object] = field(default_factory=dict)
    """Further fields of vLLM's `EngineArgs`, verbatim, e.g. `{gpu_memory_utilization: 0.5}`."""


@dataclass(frozen=True)
class Place:
    """Where things are kept; the stage fills it in."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    answers: str | None = None
    """Folder of answers, which are not asked for again."""
    usage: str | None = None
    """Folder for what asking has cost."""
    log: str | None = None
    """Beginning of the name of the server's log."""


class Target(Protocol):
    """The options by which a reward names its server."""

    @property
    def url(self) -> str | None: ...

    @property
    def path(self) -> str | None: ...

    @property
    def model(self) -> str | None: ...

    @property
    def token_variable(self) -> str | None: ...

    @property
    def requests(self) -> Requests: ...

    @property
    def server(self) -> Server: ...

    @property
    def place(self) -> Place | None: ...


def check_url(url: str) -> None:
    """Raises `ValueError` where it is no address of a server, or holds a secret."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url = {url!r} must begin with http:// or https://")
    if urlsplit(url).username is not None:
        raise ValueError("url holds a password or a user; take it out and use token_variable")


def check_target(target: Target) -> None:
    """Raises `ValueError` unless either a server or a model to serve is named, and wholly."""
    if (target.url is None) == (target.path is None):
        raise ValueError("give either url, a running server, or path, a model to serve")
    if target.url is not None:
        check_url(target.url)
        if target.model is None:
            raise ValueError("url needs model: the name under which the server has it")
        if target.server != Server():
            raise ValueError("server says how path is served; with url, remove it")
    else:
        if target.model is not None:
            raise ValueError("model names what a url serves; with path, remove it")
        if target.token_variable is not None:
            raise ValueError("token_variable is for a url; with path, remove it")


def check_sampling(sampling: Mapping[str, object]) -> None:
    """Raises `ValueError` where a field of the request is ours."""
    for name in sampling:
        if name in OWNED:
            raise ValueError(f"sampling.{name} cannot be set: {OWNED[name]}")
