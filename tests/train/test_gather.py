"""Local losses against the losses over the whole batch, with the other processes played in one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from babelclip.train import gather
from babelclip.train.gather import Similarities, clip_rows, mean_of_rows, sigmoid_rows, similarities
from babelclip.train.losses import clip_loss, sigmoid_loss
from babelclip.train.processes import Ranks

SIZES = (3, 2, 4)
SCALE, BIAS = 7.0, -3.0


@dataclasses.dataclass(frozen=True)
class Played(Ranks):
    """One of several processes whose rows are all at hand."""

    everybody: tuple[torch.Tensor, ...] = ()

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        found = [whole for whole in self.everybody if whole.shape[1] == rows.shape[1] and whole.dtype == rows.dtype]
        own = slice(self.start, self.start + len(rows))
        (whole,) = [whole for whole in found if torch.equal(whole[own], rows)]
        return whole


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pictures, texts = (torch.randn(9, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    # Rows 0 and 4 share a text, 1 and 8 a picture, 5 and 6 both: pairs that lie on two processes, and on one.
    groups = torch.stack([torch.arange(9), torch.arange(9) + 100], dim=1)
    groups[4, 0], groups[8, 1] = groups[0, 0], groups[1, 1]
    groups[6] = groups[5]
    return pictures.requires_grad_(), texts.requires_grad_(), groups


def same_of(groups: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[bool((a == b).any()) for b in groups] for a in groups])


def local(loss: str, pictures: torch.Tensor, texts: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The mean of the local losses, weighted by rows as the loop does it."""
    normalised = [torch.nn.functional.normalize(x, dim=-1) for x in (pictures, texts)]
    total = torch.zeros((), dtype=torch.float64)
    for rank, size in enumerate(SIZES):
        ranks = Played(rank, len(SIZES), SIZES, lambda: None, lambda _: None, (*normalised, groups))
        own = slice(ranks.start, ranks.start + size)
        cosines = similarities(pictures[own], texts[own], groups[own], ranks)
        scale, bias = torch.tensor(SCALE, dtype=torch.float64), torch.tensor(BIAS, dtype=torch.float64)
        value = clip_rows(cosines, scale) if loss == "clip" else sigmoid_rows(cosines, scale, bias)
        total = total + value * size / 9
    return total


@pytest.mark.parametrize("loss", ["clip", "sigmoid"])
def test_local_losses_of_three_processes_are_the_loss_of_the_whole_batch_with_its_gradients(loss: str):
    pictures, texts, groups = rows()
    value = local(loss, pictures, texts, groups)
    same = same_of(groups)
    whole = (
        clip_loss(pictures, texts, SCALE, same) if loss == "clip" else sigmoid_loss(pictures, texts, SCALE, BIAS, same)
    )
    assert value.item() == pytest.approx(whole.item(), rel=1e-12)
    for a, b in zip(
        torch.autograd.grad(value, (pictures, texts)), torch.autograd.grad(whole, (pictures, texts)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", ["clip", "sigmoid"])
def test_a_block_of_rows_at_a_time_gives_the_loss_and_gradients_of_all_at_once(
    loss: str, monkeypatch: pytest.MonkeyPatch
):
    pictures, texts, groups = rows()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(BIAS, dtype=torch.float64, requires_grad=True)
    normalised = [torch.nn.functional.normalize(x, dim=-1) for x in (pictures, texts)]
    ranks = Played(1, len(SIZES), SIZES, lambda: None, lambda _: None, (*normalised, groups))
    own = slice(ranks.start, ranks.start + SIZES[1])
    heights = []

    def loss_of(cosines: Similarities) -> torch.Tensor:
        heights.append(len(cosines.same))
        return clip_rows(cosines, scale) if loss == "clip" else sigmoid_rows(cosines, scale, bias)

    found = []
    for entries in (1 << 26, 9 * (SIZES[1] - 1)):
        monkeypatch.setattr(gather, "_ENTRIES", entries)
        played = dataclasses.replace(ranks)
        value = mean_of_rows(pictures[own], texts[own], groups[own], played, loss_of)
        leaves = (pictures, texts, scale, *((bias,) if loss == "sigmoid" else ()))
        found.append((value, torch.autograd.grad(value, leaves, retain_graph=True)))
    assert heights[0] == SIZES[1]
    assert heights[1:3] == [SIZES[1] - 1, 1]
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-12)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", ["clip", "sigmoid"])
def test_gradients_of_the_local_losses_are_those_of_finite_differences(loss: str):
    pictures, texts, groups = rows()
    assert torch.autograd.gradcheck(lambda p, t: local(loss, p, t, groups), (pictures, texts))


def test_a_shared_text_or_picture_is_no_negative_across_processes():
    pictures, texts, groups = rows()
    alone = groups.clone()
    alone[:, :] = torch.arange(18).reshape(9, 2)
    assert local("clip", pictures, texts, groups).item() != local("clip", pictures, texts, alone).item()
    assert same_of(groups).sum() == 9 + 2 * 3
