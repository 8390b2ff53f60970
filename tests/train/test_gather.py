"""Local losses against the losses over the whole batch, with the other processes played in one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from babelclip.train.gather import clip_rows, sigmoid_rows, similarities
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
def test_gradients_of_the_local_losses_are_those_of_finite_differences(loss: str):
    pictures, texts, groups = rows()
    assert torch.autograd.gradcheck(lambda p, t: local(loss, p, t, groups), (pictures, texts))


def test_a_shared_text_or_picture_is_no_negative_across_processes():
    pictures, texts, groups = rows()
    alone = groups.clone()
    alone[:, :] = torch.arange(18).reshape(9, 2)
    assert local("clip", pictures, texts, groups).item() != local("clip", pictures, texts, alone).item()
    assert same_of(groups).sum() == 9 + 2 * 3
