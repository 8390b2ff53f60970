"""EfficientNet-Lite, the small picture tower of the starter (Tan and Le, 2019, arXiv 1905.11946; the "lite" variant).

transformers has EfficientNet only with squeeze-and-excitation and SiLU; the lite variant has neither. Batch norms are
folded into the convolutions when weights are read (`starter/teacher.py`), so this module is for locked towers:
it has no running statistics that training could disturb.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# (expansion, channels out, blocks, stride of the first, kernel) of each stage, for width and depth 1.0 (Lite0).
LITE0_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """Shape of the network; the defaults are Lite0."""

    stages: tuple[tuple[int, int, int, int, int], ...] = LITE0_STAGES
    stem_channels: int = 32
    hidden_size: int = 1280

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for `config.json`."""
        return {"model_type": "efficientnet_lite", **asdict(self)}


def _same_padding(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pads as TensorFlow's SAME does: where the sum is odd, the extra column goes right and below."""
    height, width = x.shape[-2:]
    down = max((-(-height // stride) - 1) * stride + kernel - height, 0)
    across = max((-(-width // stride) - 1) * stride + kernel - width, 0)
    return functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


class Convolution(nn.Module):
    """Convolution with bias (the folded batch norm), SAME padding, and ReLU6 unless it is a projection."""

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        # With stride 1 the SAME padding is symmetric, so the convolution does it by itself.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (N, out, H / stride, W / stride)."""
        if self.stride > 1:
            x = _same_padding(x, self.kernel, self.stride)
        x = self.conv(x)
        return functional.relu6(x) if self.relu else x


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project; the input is added where the shape stays."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = Convolution(channels, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.project = Convolution(wide, out, 1, relu=False)
        self.residual = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (N, out, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Pictures (N, 3, H, W) to pooled features (N, hidden_size), batch norms folded."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Convolution(3, config.stem_channels, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = config.stem_channels
        for expansion, out, count, stride, kernel in config.stages:
            for index in range(count):
                blocks.append(Block(channels, out, expansion, kernel, stride if index == 0 else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = Convolution(channels, config.hidden_size, 1)
        # The layout that the processor's convolutions work in; it changes no result.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the mean over positions of the last feature map (N, hidden_size)."""
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        features: torch.Tensor = self.last(self.blocks(x))
        return features.mean(dim=(2, 3))
