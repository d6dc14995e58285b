"""When a sampler may keep its memory on the CPU."""

from __future__ import annotations

from align.inference.memory import may_be_kept


def test_a_sampler_is_kept_where_four_times_its_memory_is_left() -> None:
    assert may_be_kept(held=1 << 30, left=4 << 30)
    assert not may_be_kept(held=1 << 30, left=(4 << 30) - 1)


def test_this_process_is_measured_by_itself() -> None:
    """An interpreter with its tests loaded holds more than 8 MiB and less than the machine."""
    assert not may_be_kept(left=32 << 20)
    assert may_be_kept(held=1)
