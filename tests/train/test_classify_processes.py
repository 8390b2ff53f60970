"""Two processes fine-tune on classes as one does: pairs of a class lie on both, adapters are merged on each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from babelclip.train.log import read_log
from tests.train.class_processes import CASES

FREE = {"seconds", "tokens_per_second"}
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not torch.distributed.is_gloo_available(), reason="processes are forked and use gloo"
)


@pytest.fixture(scope="module")
def trained(towers_trained: Path) -> Path:
    return towers_trained / "classes"


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_figures_and_weights_of_one(trained: Path, case: str):
    one, two = (trained / case / name for name in ("one", "two"))
    logs = [
        [{key: value for key, value in line.items() if key not in FREE} for line in read_log(folder / "log.jsonl")]
        for folder in (one, two)
    ]
    assert len(logs[0]) == len(logs[1]) >= 3
    for single, double in zip(*logs, strict=True):
        assert double.pop("event") == single.pop("event")
        # Sums in another order.
        assert double == pytest.approx(single, rel=1e-4, abs=1e-5)
    figures = [json.loads(folder.with_suffix(".json").read_text(encoding="utf-8")) for folder in (one, two)]
    assert figures[0] == figures[1]
    weights = [torch.load(folder.with_suffix(".pt"), weights_only=True) for folder in (one, two)]
    for tower in ("text", "image"):
        assert weights[0][tower].keys() == weights[1][tower].keys()
        for name, tensor in weights[0][tower].items():
            torch.testing.assert_close(weights[1][tower][name], tensor, rtol=0, atol=1e-5)
