"""Whether this process may keep what it holds while others work: main memory, on Linux."""

from __future__ import annotations

from pathlib import Path

_SPARE = 4.0
"""What must be left, in units of what is held. Training holds weights, gradients and two moments in
float32, which is four times a sampler's weights."""


def may_be_kept(held: int | None = None, left: int | None = None) -> bool:
    """Whether so many bytes held (this process's own) leave enough to others."""
    held = _held() if held is None else held
    left = _left() if left is None else left
    return left >= _SPARE * held


def _held() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def _left() -> int:
    """What the machine, or the container where it has a limit, could still give."""
    words = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    left = int(words["MemAvailable"].split()[0]) << 10
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
    except OSError:
        return left
    return left if limit.strip() == "max" else min(left, int(limit) - int(used))
