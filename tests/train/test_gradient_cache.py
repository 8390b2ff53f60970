"""Gradients of a batch in parts against those of one graph over the same parts, dropout included."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from babelclip.errors import BabelclipError
from babelclip.train.gather import clip_rows, sigmoid_rows, similarities
from babelclip.train.gradient_cache import check_independent_rows, cut, loss_in_parts
from babelclip.train.processes import Ranks


class TwoTowers(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4))
        self.image = nn.Sequential(nn.Linear(5, 8), nn.Dropout(dropout), nn.Linear(8, 4))
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.rows: list[int] = []

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.rows.append(len(batch["text"]))
        of_image, of_text = self.image(batch["image"].to(self.log_scale)), self.text(batch["text"].to(self.log_scale))
        pictures, texts = of_image.to(self.log_scale), of_text.to(self.log_scale)
        return pictures, texts, self.log_scale.exp(), self.bias * 1.0


def batch_of(n: int = 11) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    groups = torch.arange(n)[:, None].repeat(1, 2)
    groups[3] = groups[5]
    text, image = torch.randn(n, 6, generator=generator), torch.randn(n, 5, generator=generator)
    return {"text": text, "image": image, "groups": groups}


def alone(n: int = 11) -> Ranks:
    return Ranks(0, 1, [n], contextlib.nullcontext, lambda loss: loss.backward())


def loss_of(batch: Mapping[str, Tensor], ranks: Ranks):
    def loss(pictures: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        cosines = similarities(pictures, texts, batch["groups"], ranks)
        return clip_rows(cosines, scale) + sigmoid_rows(cosines, scale, bias)

    return loss


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("dropout", "rows"), [(0.0, 4), (0.4, 4), (0.4, 3), (0.4, 1), (0.4, 100)])
def test_gradients_in_parts_are_those_of_one_pass_with_the_same_masks(dropout: float, rows: int):
    batch, ranks = batch_of(), alone()
    parted, whole = TwoTowers(dropout).double(), TwoTowers(dropout).double()
    torch.manual_seed(5)
    value = loss_in_parts(parted, batch, loss_of(batch, ranks), ranks, rows)
    value.backward()
    after = torch.rand(3)

    torch.manual_seed(5)
    outputs = [whole(part) for part in cut(batch, rows, ranks.sizes)]
    pictures, texts = (torch.cat(column) for column in list(zip(*outputs, strict=True))[:2])
    reference = loss_of(batch, ranks)(pictures, texts, *outputs[0][2:])
    reference.backward()

    assert value.item() == pytest.approx(reference.item(), rel=1e-12)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(parted)[name], gradient, rtol=1e-9, atol=1e-12)
    assert torch.equal(torch.rand(3), after), "what is drawn next is as after one pass"
    assert max(parted.rows) <= rows


def test_without_dropout_the_whole_batch_at_once_gives_the_same_gradients():
    batch, ranks = batch_of(), alone()
    parted, whole = TwoTowers(0.0).double(), TwoTowers(0.0).double()
    loss_in_parts(parted, batch, loss_of(batch, ranks), ranks, 3).backward()
    loss_of(batch, ranks)(*whole(batch)).backward()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(parted)[name], gradient, rtol=1e-9, atol=1e-12)


def test_other_masks_in_the_second_pass_would_be_noticed():
    """The fault that this module is for: the test above must not pass with any masks."""
    batch, ranks = batch_of(), alone()
    first, second = TwoTowers(0.4), TwoTowers(0.4)
    torch.manual_seed(5)
    loss_in_parts(first, batch, loss_of(batch, ranks), ranks, 4).backward()
    torch.manual_seed(6)
    loss_in_parts(second, batch, loss_of(batch, ranks), ranks, 4).backward()
    assert not torch.allclose(gradients(first)["text.0.weight"], gradients(second)["text.0.weight"], rtol=1e-3)


def test_weights_that_autocast_keeps_from_the_first_pass_do_not_cost_the_gradient():
    batch, ranks = batch_of(), alone()
    parted, whole = TwoTowers(0.0), TwoTowers(0.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss_in_parts(parted, batch, loss_of(batch, ranks), ranks, 4).backward()
        loss_of(batch, ranks)(*whole(batch)).backward()
    for name, gradient in gradients(whole).items():
        # bf16 has 8 bits, and the gradients of parts are rounded each.
        torch.testing.assert_close(gradients(parted)[name], gradient, rtol=0.05, atol=0.02)
        assert gradient.abs().max() > 0.05


def test_processes_make_the_same_number_of_parts_of_unequal_shares():
    batch = batch_of(7)
    assert [len(part["text"]) for part in cut(batch, 3, [7, 6])] == [3, 2, 2]
    smaller = {name: tensor[:6] for name, tensor in batch.items()}
    assert [len(part["text"]) for part in cut(smaller, 3, [7, 6])] == [2, 2, 2]
    assert len(cut(smaller, 1, [7, 6])) == 6
    assert len(cut(batch, 0, [7])) == 1


def test_a_batch_norm_that_trains_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(BabelclipError, match=r"micro_batch was given, but 1 normalises.*micro_batch = 0"):
        check_independent_rows(model)
    check_independent_rows(model.eval())
