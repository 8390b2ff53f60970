from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelclip.errors import BabelclipError
from babelclip.models.batching import token_batches


@given(st.lists(st.integers(0, 90), max_size=300), st.integers(1, 2000))
def test_every_text_is_in_one_batch_and_no_batch_breaks_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) * longest <= budget or len(batch) == 1
        assert list(batch) == sorted(batch, key=lambda row: -lengths[row])
    sizes = [max(lengths[row] for row in batch) for batch in batches]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("texts", "bound"), [(64, 1.25), (384, 1.1), (5000, 1.03)])
def test_captions_of_mixed_lengths_are_hardly_padded(texts, bound):
    lengths = np.random.default_rng(0).lognormal(2.6, 0.5, size=texts).astype(int).clip(3, 77)
    batches = token_batches(lengths.tolist(), 1024)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded / lengths.sum() < bound
    assert len(batches) < 2 * lengths.sum() / 1024 + 4  # not bought with many small passes


def test_texts_of_one_length_fill_the_budget():
    assert [len(batch) for batch in token_batches([8] * 300, 1024)] == [128, 128, 44]


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_that_holds_nothing_is_refused(budget):
    with pytest.raises(BabelclipError, match="must be at least 1"):
        token_batches([1], budget)
