from __future__ import annotations

import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.train.interpolate import blend, snapshot, sweep


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2, 3), value), "seen": torch.tensor(int(value * 10))}


def test_a_share_lies_between_and_both_ends_are_bit_equal():
    generator = torch.Generator().manual_seed(0)
    start, end = ({"w": torch.randn(50, generator=generator)} for _ in range(2))
    target = snapshot(start)
    blend(target, start, end, 0.25)
    torch.testing.assert_close(target["w"], 0.75 * start["w"] + 0.25 * end["w"])
    for alpha, expected in ((0.0, start), (1.0, end)):
        blend(target, start, end, alpha)
        assert torch.equal(target["w"], expected["w"])


def test_counters_are_those_of_the_end_but_at_the_start():
    target = weights(0.5)
    blend(target, weights(0.0), weights(1.0), 0.5)
    assert (target["seen"].item(), target["w"][0, 0].item()) == (10, 0.5)
    blend(target, weights(0.0), weights(1.0), 0.0)
    assert target["seen"].item() == 0


def test_the_best_share_is_kept_and_every_one_is_reported():
    target, start = {"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}
    points, best = sweep(
        target, start, [1.0, 0.0, 0.5, 0.5], lambda: {"acc1": 1 - abs(float(target["w"]) - 0.4)}, "acc1"
    )
    assert [point.alpha for point in points] == [0.0, 0.5, 1.0]
    assert best.alpha == 0.5
    assert target["w"].item() == 0.5


def test_of_equal_shares_the_one_nearest_to_the_start_is_kept():
    target = {"w": torch.tensor([1.0])}
    _, best = sweep(target, {"w": torch.tensor([0.0])}, [0.25, 0.5, 1.0], lambda: {"acc1": 0.7}, "acc1")
    assert best.alpha == target["w"].item() == 0.25


def test_what_is_known_is_not_measured_again():
    target, measured = {"w": torch.tensor([1.0])}, []

    def score() -> dict[str, float]:
        measured.append(target["w"].item())
        return {"acc1": 0.5}

    known = {0.0: {"acc1": 0.2}, 1.0: {"acc1": 0.9}}
    points, best = sweep(target, {"w": torch.tensor([0.0])}, [0, 0.5, 1], score, "acc1", known)
    assert measured == [0.5]
    assert [point.scores["acc1"] for point in points] == [0.2, 0.5, 0.9]
    assert (best.alpha, target["w"].item()) == (1.0, 1.0)


def test_no_shares_are_the_tuned_weights():
    target = {"w": torch.tensor([1.0])}
    points, best = sweep(target, {"w": torch.tensor([0.0])}, [], lambda: {"acc1": 0.7}, "acc1")
    assert (len(points), best.alpha, target["w"].item()) == (1, 1.0, 1.0)


def test_a_metric_that_is_not_measured_and_other_names_are_errors():
    target = {"w": torch.tensor([1.0])}
    with pytest.raises(BabelclipError, match=r"'acc2'.*only acc1 were measured: set train.best_metric"):
        sweep(target, {"w": torch.tensor([0.0])}, [1.0], lambda: {"acc1": 0.7}, "acc2")
    with pytest.raises(BabelclipError, match="different names, for example v"):
        blend(target, {"v": torch.tensor([0.0])}, target, 0.5)
