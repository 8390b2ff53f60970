"""The ResNets of OpenAI's CLIP (RN50, RN101, RN50x4, x16, x64), which transformers has no class for.

They differ from torchvision's in three things (Radford et al., 2021, arXiv 2103.00020, section 2.4): a stem of three
convolutions, average pooling before each convolution that would have a stride, and attention in place of the last
average pooling. Names of weights are OpenAI's. The projection behind the attention (`c_proj`) is the tower's head.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# Channels grow fourfold inside a block, and fourfold eight times the width is what the last stage gives.
_EXPANSION = 4
_STRIDE = 32


@dataclass(frozen=True)
class ClipResNetConfig:
    """Shape of the network; the defaults are RN50.

    Attributes:
        layers: blocks of each of the four stages.
        width: channels of the first stage.
        image_size: pixels of a side, a multiple of 32.
        head_width: channels of one attention head in the pooling.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    image_size: int = 224
    head_width: int = 64

    @property
    def hidden_size(self) -> int:
        """Width H of the pooled features."""
        return self.width * 8 * _EXPANSION

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for `config.json`."""
        return {"model_type": "clip_resnet", **asdict(self)}


def _convolution(channels: int, out: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)


class Bottleneck(nn.Module):
    """Three convolutions and the input added; with stride 2, both ways are averaged over squares of four pixels."""

    def __init__(self, channels: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        out = inner * _EXPANSION
        self.conv1, self.bn1 = _convolution(channels, inner), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _convolution(inner, inner, 3), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _convolution(inner, out), nn.BatchNorm2d(out)
        self.shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            parts = [("-1", nn.AvgPool2d(stride)), ("0", _convolution(channels, out)), ("1", nn.BatchNorm2d(out))]
            self.downsample = nn.Sequential(OrderedDict[str, nn.Module](parts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (N, 4 * inner, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.shrink(functional.relu(self.bn2(self.conv2(y))))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class AttentionPool(nn.Module):
    """Attention of the mean over all places to the places and to itself, each with its learned position."""

    def __init__(self, places: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(places + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (N, H) for features (N, H, height, width)."""
        places = x.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding
        # The mean alone asks: what the original computes for the other places is never read.
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(places[:, :1]), self.k_proj(places), self.v_proj(places))
        )
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)


class ClipResNet(nn.Module):
    """Pictures (N, 3, image_size, image_size) to pooled features (N, H)."""

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        self.config = config
        width, half = config.width, config.width // 2
        self.conv1, self.bn1 = _convolution(3, half, 3, stride=2), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = _convolution(half, half, 3), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _convolution(half, width, 3), nn.BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(config.layers):
            inner = width * 2**stage
            layer = [Bottleneck(channels, inner, stride=2 if stage else 1)]
            channels = inner * _EXPANSION
            layer += [Bottleneck(channels, inner) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        places = (config.image_size // _STRIDE) ** 2
        self.attnpool = AttentionPool(places, channels, channels // config.head_width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns pooled features (N, H), not projected, for pixels (N, 3, image_size, image_size)."""
        x = functional.relu(self.bn1(self.conv1(pixels)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.avg_pool2d(functional.relu(self.bn3(self.conv3(x))), 2)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        pooled: torch.Tensor = self.attnpool(x)
        return pooled
