from __future__ import annotations

import pytest
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.train.lora import adapted_weights, add_adapters, merge_adapters
from tests.conftest import make_image_encoder, make_text_encoder

PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def moved_adapters(tower: nn.Module, seed: int = 0) -> dict[str, nn.Parameter]:
    added = add_adapters(tower, 4, seed)
    with torch.no_grad():
        for number, parameter in enumerate(added.values()):
            generator = torch.Generator().manual_seed(number)
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return added


def test_a_tower_with_new_adapters_is_what_it_was_and_only_they_train():
    tower = make_image_encoder()
    before, names = tower(PIXELS), {name for name, _ in tower.named_parameters()}
    added = add_adapters(tower, 4, seed=0)
    assert torch.equal(tower(PIXELS), before)
    assert {name for name, weight in tower.named_parameters() if weight.requires_grad} == set(added)
    assert not names & set(added)
    assert max(min(weight.shape[:2]) for weight in added.values()) == 4


def test_merged_adapters_give_the_same_vectors_from_a_tower_with_its_own_names():
    tower = make_text_encoder()
    start = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    moved_adapters(tower)
    tuned, below = tower.encode(["a red dog", "två katt"]), set(adapted_weights(tower))
    merge_adapters(tower)
    end = tower.state_dict()
    assert set(end) == set(start)
    assert {name for name in start if not torch.equal(start[name], end[name])} == below
    assert "backbone.encoder.layer.0.attention.self.query.weight" in below
    assert "head.0.weight" in below
    assert not any("embeddings" in name or "LayerNorm" in name or name.endswith("bias") for name in below)
    torch.testing.assert_close(torch.tensor(tower.encode(["a red dog", "två katt"])), torch.tensor(tuned))


def test_adapters_follow_from_their_seed_and_leave_the_random_state():
    state = torch.get_rng_state()
    drawn = [next(iter(add_adapters(make_image_encoder(), 4, seed).values())) for seed in (1, 1, 2)]
    make_image_encoder()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    torch.set_rng_state(state)
    tower = make_text_encoder()
    state = torch.get_rng_state()
    add_adapters(tower, 4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)


def test_layers_that_cannot_have_an_adapter_are_left_out_and_none_at_all_is_an_error():
    with pytest.raises(BabelclipError, match=r'"lora" finds no linear layer .* set it to "all"'):
        add_adapters(Packed(), 4, seed=0)
    tower = Packed()
    tower.pointwise = nn.Conv2d(8, 8, 1)
    assert {name.split(".")[0] for name in add_adapters(tower, 4, seed=0)} == {"pointwise"}


def test_adapters_that_are_not_finite_are_refused():
    tower = make_image_encoder()
    with torch.no_grad():
        list(add_adapters(tower, 4, seed=0).values())[1].fill_(float("nan"))
    with pytest.raises(BabelclipError, match=r"not finite.*lower train\.lr"):
        merge_adapters(tower)
