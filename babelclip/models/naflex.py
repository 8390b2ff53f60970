"""The picture tower of SigLIP 2 NaFlex: a vision transformer on patches of pictures in their own proportions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from babelclip.models.patches import GRID_COLUMNS


class NaflexTower(nn.Module):
    """Packed patches (see `patches`) to pooled features; transformers' `Siglip2VisionModel` under `transformer`.

    Letters: N pictures, P patches with padding, C patch * patch * 3, H width.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.config: Any = transformer.config

    def forward(self, packed: torch.Tensor) -> torch.Tensor:
        """Returns pooled features (N, H), not normalised, for packed patches (N, P, C + 2); padding is masked."""
        patches, flags = packed[..., :-GRID_COLUMNS], packed[..., -GRID_COLUMNS:]
        columns, rows = flags.float().sum(dim=1).round().long().unbind(dim=-1)
        positions = torch.arange(packed.shape[1], device=packed.device)
        mask = (positions < (rows * columns).unsqueeze(-1)).long()
        output = self.transformer(patches, mask, torch.stack([rows, columns], dim=-1))
        pooled: torch.Tensor = output.pooler_output
        return pooled
