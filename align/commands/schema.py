"""`align schema`: prints the JSON schema that is shipped with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "recipe.schema.json"


def main(args: argparse.Namespace) -> int:
    """Prints the file; nothing is imported for it."""
    print(SHIPPED.read_text(encoding="utf-8"), end="")
    return 0
