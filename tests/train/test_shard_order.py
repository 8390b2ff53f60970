"""The order of a stream: every row once, however uneven the shards; near to the order on disk, and yet mixed."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from babelclip.train.shard_order import ShardOrder


def order_of(sizes: list[int], **more: int) -> ShardOrder:
    settings = {"batch_size": 8, "epoch": 0, "seed": 1, "lanes": 4, "window": 64} | more
    return ShardOrder(sizes, **settings)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    batch_size=st.integers(1, 30),
    lanes=st.integers(1, 9),
    window=st.integers(1, 100),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_once_an_epoch_in_batches_of_nearly_equal_size(
    sizes: list[int], batch_size: int, lanes: int, window: int, epoch: int
):
    batches = list(order_of(sizes, batch_size=batch_size, lanes=lanes, window=window, epoch=epoch))
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(sum(sizes)))
    lengths = {len(batch) for batch in batches}
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_take_every_row_once_in_as_many_steps_whatever_their_number(world: int):
    order = order_of([5, 31, 0, 2, 17, 90, 1], batch_size=16, lanes=4)
    shares = [[np.array_split(batch, world)[rank] for batch in order] for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert np.array_equal(np.sort(np.concatenate([rows for share in shares for rows in share])), np.arange(146))


def test_more_lanes_and_processes_than_shards_is_an_even_split():
    order = order_of([40], batch_size=8, lanes=8)
    halves = [np.concatenate([np.array_split(batch, 2)[rank] for batch in order]) for rank in (0, 1)]
    assert [len(half) for half in halves] == [20, 20]
    assert halves[0].max() < halves[1].min(), "each process reads one half of the tar"


def test_a_process_reads_few_shards_at_a_time_and_each_but_once():
    sizes = [100] * 40
    order = order_of(sizes, batch_size=16, lanes=4, window=64)
    for rank in (0, 1):
        read = [np.unique(np.array_split(batch, 2)[rank] // 100) for batch in order]
        assert max(len(shards) for shards in read) <= 4, "two lanes, each within a shard or between two"
        assert len(np.unique(np.concatenate(read))) == 20
        spans = {
            shard: np.flatnonzero([shard in shards for shards in read]) for shard in np.unique(np.concatenate(read))
        }
        # Four rows of a lane a step: the shard, and a window of 16 rows before and after it.
        assert max(steps[-1] - steps[0] for steps in spans.values()) <= (100 + 2 * 16) / 4


def test_order_follows_from_seed_and_epoch_and_mixes():
    sizes = [50] * 6
    first = np.concatenate(list(order_of(sizes)))
    assert np.array_equal(first, np.concatenate(list(order_of(sizes))))
    for other in (order_of(sizes, epoch=1), order_of(sizes, seed=2)):
        assert not np.array_equal(first, np.concatenate(list(other)))
    assert not np.array_equal(first, np.arange(300))
    batch = order_of(sizes)[3]
    assert len(np.unique(batch // 50)) >= 3, "a batch mixes shards"
    assert (np.diff(batch[:2]) != 1).any() or (np.diff(batch[2:4]) != 1).any(), "rows of a window are shuffled"


def test_a_batch_can_be_asked_for_alone_and_beyond_the_last_there_is_none():
    order = order_of([9, 9, 9])
    assert len(order) == 4
    assert np.array_equal(order[-1], order[3])
    assert [rows.tolist() for rows in order[1:3]] == [order[1].tolist(), order[2].tolist()]
    with pytest.raises(IndexError, match="step 4 of 4"):
        order[4]
