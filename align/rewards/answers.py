"""Answers of servers on disk by what was asked, so that nothing is paid for twice.

JSON lines `{"key", "answer"}` in files of one writer each, so that any number of processes, runs
and nodes may share the folder. An answer counts as soon as its line is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import uuid
from pathlib import Path
from typing import BinaryIO, cast

from align.records import Json, canonical_json


class Answers:
    """The answers that lie in a folder when it is opened, and those put there through this."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        self._lock = threading.Lock()
        self._path = folder / f"answers-{uuid.uuid4().hex[:12]}.jsonl"
        self._file: BinaryIO | None = None
        for path in sorted(folder.glob("answers-*.jsonl")):
            self._read(path)

    def get(self, asked: Json) -> Json:
        """The answer, or None where there is none."""
        place = self._places.get(key_of(asked))
        if place is None:
            return None
        with place[0].open("rb") as file:
            file.seek(place[1])
            return cast("dict[str, Json]", json.loads(file.readline()))["answer"]

    def put(self, asked: Json, answer: Json) -> None:
        """Keeps an answer, which is not None."""
        key = key_of(asked)
        line = (json.dumps({"key": key, "answer": answer}) + "\n").encode()
        with self._lock:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            offset = self._file.tell()
            self._file.write(line)
            self._places[key] = (self._path, offset)

    def close(self) -> None:
        """Closes the file of this writer."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path) -> None:
        offset = 0
        with path.open("rb") as file:
            for line in file:
                # A writer that was killed, or met a full disk, leaves a line that is none.
                with contextlib.suppress(ValueError):
                    self._places[json.loads(line)["key"]] = (path, offset)
                offset += len(line)


def key_of(asked: Json) -> str:
    """The first 32 hex digits of its SHA-256."""
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:32]
