"""One `align run` a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from align.errors import SetupError


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes the folder and holds it; the kernel frees it when the process dies. Raises `SetupError`
    where it cannot be made or written, or another process holds it.
    """
    with _opened(out) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise SetupError(
                f"{out} is in use by process {file.read().strip() or '?'}; wait for it, or choose "
                "another --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _opened(out: Path) -> TextIO:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return (out / ".lock").open("a+")
    except OSError as error:
        raise SetupError(
            f"{out} cannot be the run's folder ({error.strerror}); choose another --out"
        ) from error
