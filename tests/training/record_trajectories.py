"""Stores the losses of fifty steps by TRL's DPOTrainer, and ours beside them; run by hand.

    python -m tests.training.record_trajectories SHARED            # every loss
    python -m tests.training.record_trajectories SHARED ipo hinge  # some of them

Needed when TRL's version, the pairs, the checkpoint or a setting in `trajectory.py` changes.
`test_parity.py` compares our engine with what lies in `trajectories/`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.training.trajectory import LOSSES, STORE, our_losses, settings, trl_losses


def main() -> int:
    shared, names = Path(sys.argv[1]), sys.argv[2:] or list(LOSSES)
    STORE.mkdir(exist_ok=True)
    for name in names:
        loss = LOSSES[name]
        with tempfile.TemporaryDirectory() as folder:
            theirs = trl_losses(shared, Path(folder) / "theirs", loss)
            ours = our_losses(shared, Path(folder) / "ours", loss)
        libraries = {library: version(library) for library in ("torch", "transformers")}
        stored = {
            "settings": settings(loss),
            "recorded_with": libraries,
            "trl": [round(value, 7) for value in theirs],
            "align": [round(value, 7) for value in ours],
        }
        (STORE / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n")
        gap = max(abs(one - other) for one, other in zip(theirs, ours, strict=True))
        print(f"{name}: {len(theirs)} steps, largest difference {gap:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
