"""Publishes the model of a run folder: its files and a card, to the Hub or to a folder, read back
and compared.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from align.data.fingerprint import fingerprint
from align.errors import InputError
from align.publish.checkpoint import Checkpoint, find_checkpoint, stage_files
from align.publish.folder import write_folder
from align.publish.hub import push
from align.report.card import Subject, render_card
from align.report.summary import read_run
from align.stages.folder import RunFolder


@dataclass(frozen=True)
class Target:
    """Where to publish: exactly one of `repo` and `folder`."""

    repo: str | None = None
    folder: Path | None = None
    private: bool = True
    tags: tuple[str, ...] = ()
    merge: bool = False
    """An adapter becomes whole weights, wherever its base is."""


@dataclass(frozen=True)
class Published:
    """What was published and found again."""

    place: str
    """URL or folder."""
    step: str
    """The run's step that it is."""
    files: dict[str, str]
    """SHA-256 by path, as read back."""
    commit: str | None = None


def publish_run(
    out: Path,
    target: Target,
    *,
    api: HfApi | None = None,
    advance: Callable[[int], object] = lambda size: None,
) -> Published:
    """Publishes the last finished model of the run in `out`. `advance` is told bytes as they are
    read back.

    Raises `InputError` where there is no model or no single target, and what `push` and
    `write_folder` raise.
    """
    if not (out / "recipe.yaml").is_file():
        raise InputError(f"{out} is not a run folder: it holds no recipe.yaml")
    if (target.repo is None) == (target.folder is None):
        raise InputError(
            "say where to publish: --repo OWNER/NAME or --folder DIR, "
            "or publish.repo or publish.folder in the recipe"
        )
    summary = read_run(out)
    checkpoint = find_checkpoint(RunFolder(summary.recipe, out))
    message = f"{checkpoint.step.name} of {summary.recipe.run.name or out.name} by align"
    if target.folder is not None:
        name = target.folder.name
        files = write_folder(
            target.folder,
            lambda staged: _fill(staged, out, checkpoint, name, target, copy=True),
        )
        return Published(str(target.folder), checkpoint.step.name, files)
    repo = str(target.repo)
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "model"
        _fill(staged, out, checkpoint, repo, target, copy=False)
        receipt = push(
            staged, repo, private=target.private, message=message, api=api, advance=advance
        )
    return Published(receipt.url, checkpoint.step.name, receipt.files, receipt.commit)


def _fill(
    staged: Path, out: Path, checkpoint: Checkpoint, name: str, target: Target, *, copy: bool
) -> None:
    """The model's files, copied or linked, and its card."""
    put = shutil.copy2 if copy else os.symlink
    stage_files(checkpoint, staged, put, merge=target.merge)
    subject = Subject(
        step=checkpoint.step,
        manifest=checkpoint.manifest,
        fingerprint=fingerprint(checkpoint.weights),
        hub_base=checkpoint.hub_base,
        is_adapter=(staged / "adapter_config.json").is_file(),
        name=name,
        tags=target.tags,
    )
    (staged / "README.md").write_text(render_card(read_run(out), subject), encoding="utf-8")
