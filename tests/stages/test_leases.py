"""Claims on shards: one holder each, taken over when it falls silent, given up when lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from align.data.shards import write_part
from align.records import Score
from align.stages.leases import Claims, Lease, LeaseLost, Shard, read_lease

QUICK = Claims(silent=2.0, beat=0.1)


def _make(lease: Lease) -> int:
    write_part(lease.shard.folder, lease.shard.index, [Score("s", 1.0)], Score)
    return lease.shard.index


def test_each_shard_is_made_once_by_whoever_claims_it_first(tmp_path: Path) -> None:
    shards = [Shard(tmp_path, index) for index in range(12)]
    made: dict[str, list[int]] = {"a": [], "b": [], "c": []}

    def work(name: str) -> None:
        for lease in Claims().over(shards):
            time.sleep(0.02)
            made[name].append(_make(lease))

    threads = [threading.Thread(target=work, args=(name,)) for name in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(index for mine in made.values() for index in mine) == list(range(12))
    assert not list((tmp_path / ".leases").iterdir())


def test_parts_that_are_there_are_not_claimed(tmp_path: Path) -> None:
    write_part(tmp_path, 0, [Score("s", 1.0)], Score)
    claimed = [_make(one) for one in QUICK.over([Shard(tmp_path, 0), Shard(tmp_path, 1)])]
    assert claimed == [1]


def test_a_lease_in_use_outlives_the_silence_that_frees_others(tmp_path: Path) -> None:
    """Its holder works for twice as long; another that waits gets nothing."""
    shard, taken = Shard(tmp_path, 0), []
    waits = threading.Thread(target=lambda: taken.extend(_make(one) for one in QUICK.over([shard])))
    for lease in QUICK.over([shard]):
        waits.start()
        time.sleep(2 * QUICK.silent)
        lease.advance(3)
        time.sleep(10 * QUICK.beat)
        holder = read_lease(shard.lease)
        assert holder is not None and holder.beat > 5 and holder.done == 3
        _make(lease)
    waits.join(30)
    assert taken == []


def test_a_silent_lease_is_taken_over_and_its_holder_notices(tmp_path: Path) -> None:
    """A beat that never comes is a stopped process's; when that goes on, it leaves the shard."""
    shard = Shard(tmp_path, 0)
    for lost in Claims(silent=60, beat=60).over([shard]):
        assert [_make(one) for one in QUICK.over([shard])] == [0]
        lost.beat()
        with pytest.raises(LeaseLost):
            lost.advance()


def test_a_lease_that_was_never_written_whole_is_free_after_the_silence(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 0)
    shard.lease.parent.mkdir()
    shard.lease.write_text(json.dumps({"host": "h"})[:7])
    assert [_make(one) for one in QUICK.over([shard])] == [0]


def test_a_holder_that_fails_frees_its_shard(tmp_path: Path) -> None:
    claims = QUICK.over([Shard(tmp_path, 0)])
    next(claims)
    claims.close()
    assert not list((tmp_path / ".leases").iterdir())
