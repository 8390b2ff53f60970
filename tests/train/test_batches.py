from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.errors import BabelclipError
from babelclip.train.batches import even_batches, length_batches, order, repeated_rows

LENGTHS = np.random.default_rng(1).integers(3, 40, size=2000)


def test_one_seed_repeats_and_two_seeds_or_epochs_differ():
    assert (order(3, 7, 100) == order(3, 7, 100)).all()
    assert (order(3, 7, 100) != order(4, 7, 100)).any()
    assert (order(3, 7, 100) != order(3, 8, 100)).any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(0, 5), st.integers(0, 20), st.integers(1, 200)
)
def test_every_row_comes_once_an_epoch_and_no_batch_is_over_its_budget(lengths, epoch, batch_size, budget):
    sizes = np.asarray(lengths)
    batches = length_batches(sizes, epoch=epoch, seed=5, tokens_per_batch=budget, batch_size=batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        if batch_size:
            assert len(rows) <= batch_size
        else:
            assert len(rows) == 1 or len(rows) * sizes[rows].max() <= budget


def test_the_data_really_is_shuffled():
    first = np.concatenate(length_batches(LENGTHS, epoch=0, seed=0, tokens_per_batch=256))
    second = np.concatenate(length_batches(LENGTHS, epoch=1, seed=0, tokens_per_batch=256))
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_batches_of_like_lengths_pad_little_and_are_not_in_order_of_length():
    batches = length_batches(LENGTHS, epoch=0, seed=0, tokens_per_batch=512)
    padded = sum(len(rows) * LENGTHS[rows].max() for rows in batches)
    assert padded / LENGTHS.sum() < 1.05
    longest = np.asarray([LENGTHS[rows].max() for rows in batches])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4


def test_weights_are_expected_copies_and_zero_leaves_out():
    weights = np.repeat([0.0, 0.5, 1.0, 2.5], 1000)
    rows = repeated_rows(weights, epoch=0, seed=0)
    counts = np.bincount(rows, minlength=4000).reshape(4, 1000)
    assert counts[0].max() == 0
    assert set(counts[1]) == {0, 1}
    assert (counts[2] == 1).all()
    assert set(counts[3]) == {2, 3}
    assert counts[1].mean() == pytest.approx(0.5, abs=0.05)
    assert counts[3].mean() == pytest.approx(2.5, abs=0.05)
    assert (repeated_rows(weights, epoch=1, seed=0)[:100] != rows[:100]).any()


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(BabelclipError, match="at least 0"):
        repeated_rows(np.asarray(weights), 0, 0)


def test_even_batches_leave_no_small_rest():
    sizes = [len(rows) for rows in even_batches(65, 64, epoch=0, seed=0)]
    assert sizes == [33, 32]
    assert sorted(np.concatenate(even_batches(65, 64, epoch=2, seed=0)).tolist()) == list(range(65))
