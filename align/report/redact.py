"""Cuts out of texts and recipes what must not be published: secrets, and paths of this machine
(I8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from align.records import Json

HIDDEN = "[removed]"
_SECRET_KEY = re.compile(
    r"(^|[_-])(token|secret|password|passwd|api_?key|access_?key|credentials?)$", re.IGNORECASE
)
_ORDINARY_KEY = re.compile(r"(pad|eos|bos|unk|cls|sep|mask|image)_token$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\bsk-[A-Za-z0-9_-]{16,}"  # OpenAI and others
    r"|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}"  # GitHub
    r"|\bAKIA[A-Z0-9]{16}\b"  # AWS
    r"|(?<=Bearer )[^\s\"']+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password in a URL
)
_LOCAL_PATH = re.compile(r"(?<![\w:/.])(?:~|/)[\w.+@~-]*(?:/[\w.+@~-]+)+/?")


def redact_text(text: str, known: Sequence[str] = ()) -> str:
    """`text` without anything that looks like a secret or is one of `known`."""
    for secret in known:
        if secret:
            text = text.replace(secret, HIDDEN)
    return _SECRET_TEXT.sub(HIDDEN, text)


def redact(value: Json) -> Json:
    """A recipe's values without secrets, absolute paths cut down to their last part.

    `{"api_key": "x", "path": "/home/me/rm"}` -> `{"api_key": "[removed]", "path": ".../rm"}`
    """
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(key) else redact(child) for key, child in value.items()}
    if isinstance(value, str):
        return _LOCAL_PATH.sub(
            lambda found: f".../{PurePosixPath(found.group(0)).name}", redact_text(value)
        )
    if isinstance(value, Sequence):
        return [redact(child) for child in value]
    return value


def _is_secret(key: str) -> bool:
    return bool(_SECRET_KEY.search(key)) and not _ORDINARY_KEY.search(key)
