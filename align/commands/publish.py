"""`align publish RUN [--repo ID | --folder DIR] [--private]`: what the recipe's `publish` leaves
out comes from here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from align.errors import InputError
from align.publish.run import Target, publish_run
from align.recipe.load import load_recipe
from align.recipe.sections import Publish


def main(args: argparse.Namespace) -> int:
    """Returns 0 when everything has been read back as it was sent."""
    out = Path(args.path)
    if not (out / "recipe.yaml").is_file():
        raise InputError(f"{out} is not a run folder: it holds no recipe.yaml")
    section = load_recipe(out / "recipe.yaml", plugin_options=False).publish or Publish()
    target = choose_target(section, args.repo, args.folder, args.private)
    published = publish_run(out, target)
    console = Console()
    console.print(
        f"published {published.step} to {published.place}: "
        f"{len(published.files)} files, read back and equal",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def choose_target(
    section: Publish, repo: str | None, folder: str | None, private: bool | None
) -> Target:
    """The command line wins over the recipe; private unless one of them says otherwise."""
    if repo is not None and folder is not None:
        raise InputError("--repo and --folder exclude each other; publish twice for both")
    if repo is None and folder is None:
        repo, folder = section.repo, section.folder
    is_private = section.private if private is None else private
    place = Path(folder) if folder is not None else None
    return Target(repo, place, is_private, tuple(section.tags), section.merge)
