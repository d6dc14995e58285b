"""Publishing to the Hugging Face Hub with the official client, verified by downloading what was
committed.

The access token is the client's own (`hf auth login` or what it reads from its environment); it is
never an argument of ours and is cut out of every message that leaves this module (I8).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from align.errors import AlignError, InputError, SetupError, StageError
from align.publish.verify import compare, hash_file, hash_folder
from align.report.redact import redact_text

STALE = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")
"""Files of an earlier publishing that would be loaded together with the new ones; others are left
alone."""


@dataclass(frozen=True)
class Receipt:
    """What lies on the Hub now."""

    url: str
    commit: str
    files: dict[str, str]
    """SHA-256 by path, as downloaded from that commit."""


def push(
    folder: Path,
    repo: str,
    *,
    private: bool,
    message: str,
    api: HfApi | None = None,
    advance: Callable[[int], object] = lambda size: None,
) -> Receipt:
    """Creates the repository where it is missing, commits `folder`, downloads every file again and
    compares.

    Raises `InputError` for a bad name, `SetupError` where the token or the network does not let us,
    `StageError` where the Hub refuses or returns other bytes. `advance` is told the size of each
    file that has been read back.
    """
    client = api or HfApi(library_name="align")
    meant = hash_folder(folder)
    with _explained(client, repo):
        client.create_repo(repo, private=private, exist_ok=True)
        if private and not client.repo_info(repo).private:
            raise SetupError(
                f"{repo} exists and is public, but a private one was asked for; "
                "make it private on the Hub, or publish with --no-private"
            )
        commit = client.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, delete_patterns=list(STALE)
        )
        with tempfile.TemporaryDirectory() as scratch:
            for name, digest in meant.items():
                path = Path(
                    client.hf_hub_download(
                        repo, name, revision=commit.oid, local_dir=scratch, force_download=True
                    )
                )
                compare({name: digest}, {name: hash_file(path)}, f"{repo} at {commit.oid[:12]}")
                advance(path.stat().st_size)
                os.unlink(path)
    return Receipt(f"{client.endpoint}/{repo}", commit.oid, meant)


@contextmanager
def _explained(client: HfApi, repo: str) -> Iterator[None]:
    """Turns the client's errors into one line each, without the token."""
    try:
        yield
    except AlignError:
        raise
    except HFValidationError as error:
        raise InputError(
            f"{repo!r} is no name of a repository: {_first_line(error, client)}"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise SetupError(
                f"the Hub does not let this token write to {repo} (HTTP {status}); "
                "log in with `hf auth login` using a token with write permission"
            ) from None
        raise StageError(
            f"the Hub refused {repo} (HTTP {status}): {_first_line(error, client)}"
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise SetupError(
            f"the Hub cannot be reached ({_first_line(error, client)}); "
            "check the network, or publish to a --folder"
        ) from None
    except ValueError as error:
        raise StageError(f"the Hub refused {repo}: {_first_line(error, client)}") from None


def _first_line(error: Exception, client: HfApi) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    token = client.token if isinstance(client.token, str) else get_token()
    text = lines[0] if lines else type(error).__name__
    return redact_text(text, [token] if token else [])
