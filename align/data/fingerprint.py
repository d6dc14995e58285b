"""Names for weights and tokenizers that depend on their content alone. Standard library only: no
tensor is loaded.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from align.errors import DataError
from align.records import WeightsRef, canonical_json

_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "base_model_name_or_path",
    "revision",
}
"""Keys of config.json and adapter_config.json that may differ between equal models."""
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_BLOCK = 1 << 22


def local_folder(path: str, revision: str | None = None) -> Path:
    """The folder that holds a checkpoint: `path` itself, or the Hub's snapshot of it, downloaded
    where needed.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise DataError(f"{path} is neither a folder nor a Hub id of the form owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                path,
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).strip().splitlines()[0]
        raise DataError(
            f"{path} is not a folder here and could not be had from the Hub ({cause}); "
            "check the name, the network and `hf auth whoami`"
        ) from error


def tensor_hash(folder: Path) -> str:
    """SHA-256 over name, dtype, shape and bytes of all tensors in `*.safetensors`, in the order of
    their names.

    How the tensors are split into files does not matter. Raises `DataError` where there are none or
    one is cut short.
    """
    places: dict[str, tuple[Path, int, int, str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            except (struct.error, json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{path} is not a whole safetensors file") from error
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                kind = f"{entry['dtype']}{entry['shape']}"
                places[name] = (path, 8 + length + begin, end - begin, kind)
    if not places:
        raise DataError(f"{folder} holds no *.safetensors weights")
    digest = hashlib.sha256()
    for name in sorted(places):
        path, offset, size, kind = places[name]
        digest.update(f"{name}:{kind};".encode())
        with path.open("rb") as file:
            file.seek(offset)
            left = size
            while left:
                block = file.read(min(left, _BLOCK))
                if not block:
                    raise DataError(f"{path} is cut short")
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Tensors and configuration of one checkpoint or adapter folder."""
    configuration = {}
    for name in ("config.json", "adapter_config.json"):
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text())
            configuration[name] = {k: v for k, v in values.items() if k not in _VOLATILE}
    text = canonical_json([tensor_hash(folder), configuration])
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(weights: WeightsRef) -> str:
    """First 16 hex digits naming the function that `weights` compute: `Sample.policy`."""
    names = [folder_fingerprint(local_folder(weights.base))]
    if weights.adapter is not None:
        names.append(folder_fingerprint(Path(weights.adapter)))
    return hashlib.sha256("+".join(names).encode()).hexdigest()[:16]


def tokenizer_hash(folder: Path) -> str:
    """First 16 hex digits of the tokenizer's files."""
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
