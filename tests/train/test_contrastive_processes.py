"""Two processes train a CLIP as one does with the same batches: positives, negatives and gradients cross processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from babelclip.train.log import read_log
from tests.train.pair_processes import CASES

FREE = {"seconds", "tokens_per_second"}
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not torch.distributed.is_gloo_available(), reason="processes are forked and use gloo"
)


@pytest.fixture(scope="module")
def trained(towers_trained: Path) -> Path:
    return towers_trained / "pairs"


def figures(folder: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in FREE} for line in read_log(folder / "log.jsonl")]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_and_weights_of_one(trained: Path, case: str):
    one, two = (trained / case / name for name in ("one", "two"))
    assert len(figures(one)) == len(figures(two)) >= 6
    for single, double in zip(figures(one), figures(two), strict=True):
        assert double.pop("event") == single.pop("event")
        # Sums in another order.
        assert double == pytest.approx(single, rel=1e-5, abs=1e-6)
    weights = [torch.load(folder.with_suffix(".pt"), weights_only=True) for folder in (one, two)]
    for tower in ("text", "image"):
        for name, tensor in weights[0][tower].items():
            torch.testing.assert_close(weights[1][tower][name], tensor, rtol=0, atol=2e-6)
    torch.testing.assert_close(weights[1]["scalars"], weights[0]["scalars"], rtol=1e-6, atol=1e-6)
