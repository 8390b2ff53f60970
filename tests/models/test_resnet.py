"""CLIP's ResNet: shapes, and the attention pooling against torch's own attention over all places."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from babelclip.models.image import build_image_backbone
from babelclip.models.resnet import AttentionPool, ClipResNet, ClipResNetConfig

TINY = ClipResNetConfig(layers=(1, 2, 1, 1), width=4, image_size=64)


def test_pooled_features_have_the_width_that_the_config_states():
    model = ClipResNet(TINY).eval()
    assert model(torch.zeros(3, 3, 64, 64)).shape == (3, TINY.hidden_size) == (3, 128)


def test_the_config_builds_the_network_again():
    backbone = build_image_backbone(TINY.to_dict())
    assert isinstance(backbone, ClipResNet)
    assert backbone.config == TINY


@pytest.mark.parametrize(
    ("config", "millions"),
    # Picture towers with their projection, as CLIP's paper pairs them: RN50 to 1024, RN50x4 to 640 dimensions.
    [(ClipResNetConfig(), 38.316896), (ClipResNetConfig(layers=(4, 6, 10, 6), width=80, image_size=288), 87.137080)],
)
def test_published_sizes_have_the_published_number_of_parameters(config, millions):
    with torch.device("meta"):
        model = ClipResNet(config)
        projection = torch.nn.Linear(config.hidden_size, 1024 if config.width == 64 else 640)
    count = sum(parameter.numel() for module in (model, projection) for parameter in module.parameters())
    assert count == round(millions * 1e6)


def test_attention_pooling_equals_full_attention_read_at_the_mean():
    torch.manual_seed(0)
    pool = AttentionPool(places=6, width=8, heads=2)
    torch.nn.init.normal_(pool.positional_embedding)
    x = torch.randn(3, 8, 2, 3)
    places = x.flatten(2).permute(2, 0, 1)
    places = torch.cat([places.mean(dim=0, keepdim=True), places]) + pool.positional_embedding[:, None]
    full, _ = functional.multi_head_attention_forward(
        places, places, places, 8, 2, None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
        torch.eye(8), torch.zeros(8), use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
    )  # fmt: skip
    torch.testing.assert_close(pool(x), full[0], atol=1e-6, rtol=1e-5)
