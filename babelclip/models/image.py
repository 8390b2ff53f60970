"""The picture tower: preprocess, backbone, head; from files to vectors of the space."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from babelclip.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from babelclip.models.head import LayerSpec, backbone_width, build_head
from babelclip.models.naflex import NaflexTower
from babelclip.models.preprocess import Picture, PictureError, Preprocess, open_picture
from babelclip.models.text import bare, inference, normalize_rows, parsed_backbone
from babelclip.progress import progress_bar


class SkippedPicture(NamedTuple):
    """A picture that could not be read: its position in the input, its name, and why."""

    position: int
    name: str
    reason: str


class ImageEncoder(nn.Module):
    """Pictures to vectors of the embedding space: `preprocess` -> `backbone` -> `head`.

    Letters: N pictures, H backbone width, D embed_dim.
    """

    def __init__(self, backbone: nn.Module, *, head: list[LayerSpec], preprocess: Preprocess) -> None:
        """Takes a backbone that maps what `preprocess` gives, (N, 3, height, width), to pooled features (N, H).

        Args:
            backbone: `EfficientNetLite`, or a transformers vision class with `pooler_output`.
            head: layers from H to D (see `build_head`); the weights are set by the caller.
            preprocess: pictures to pixels.
        """
        super().__init__()
        self.backbone = backbone
        self.head_layers = head
        self.head, self.embed_dim = build_head(head, backbone_width(backbone))
        self.preprocess = preprocess

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the raw projection (N, D), not normalised, for pixels (N, 3, height, width)."""
        features: torch.Tensor = self.head(self.pooled(pixels))
        return features

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the pooled backbone output (N, H) before the head."""
        output = self.backbone(pixels)
        pooled: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
        return pooled

    def encode(
        self,
        pictures: Picture | Sequence[Picture],
        normalize: bool = True,
        *,
        batch_size: int = 32,
        before_head: bool = False,
        progress: bool = False,
    ) -> np.ndarray:
        """Returns picture features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Args:
            pictures: paths, PIL pictures or uint8 arrays; a single one counts as a list of one.
            normalize: False gives the raw projection.
            batch_size: pictures a forward pass.
            before_head: return the pooled vectors (N, H) that enter the head, never normalised.
            progress: show a bar on stderr.

        Raises:
            PictureError: a picture cannot be read. `encode_readable` skips and counts those instead.
        """
        features, _none_skipped = self.encode_readable(
            pictures,
            normalize,
            batch_size=batch_size,
            before_head=before_head,
            progress=progress,
            strict=True,
        )
        return features

    def encode_readable(
        self,
        pictures: Picture | Sequence[Picture],
        normalize: bool = True,
        *,
        batch_size: int = 32,
        before_head: bool = False,
        progress: bool = False,
        strict: bool = False,
    ) -> tuple[np.ndarray, list[SkippedPicture]]:
        """Returns features of the readable pictures (M, D) float32 in input order, and the pictures left out.

        Keywords are those of `encode`; `strict=True` raises `PictureError` at the first unreadable picture.
        """
        pictures = _as_list(pictures)
        rows: list[np.ndarray] = []
        skipped: list[SkippedPicture] = []
        forward = self.pooled if before_head else self.forward
        device = next(self.parameters()).device
        dtype = next(self.parameters()).dtype
        with (
            inference(self),
            progress_bar("Pictures", len(pictures), shown=progress, unit="pictures") as advance,
        ):
            for batch in _batched(self._pixels(pictures, skipped, strict=strict, ahead=2 * batch_size), batch_size):
                pixels = torch.from_numpy(np.stack(batch)).to(device, dtype)
                rows.append(forward(pixels).float().cpu().numpy())
                advance(len(batch))
        width = backbone_width(self.backbone) if before_head else self.embed_dim
        features = np.concatenate(rows) if rows else np.empty((0, width), dtype=np.float32)
        return (normalize_rows(features) if normalize and not before_head else features), skipped

    def _pixels(
        self, pictures: list[Picture], skipped: list[SkippedPicture], *, strict: bool, ahead: int
    ) -> Iterator[np.ndarray]:
        """Yields preprocessed pictures in order, decoded in threads at most `ahead` of the model."""
        waiting: deque[tuple[int, Future[np.ndarray]]] = deque()

        def decode(picture: Picture) -> np.ndarray:
            return self.preprocess(open_picture(picture))

        with ThreadPoolExecutor(max_workers=2) as threads:
            positions = iter(range(len(pictures)))
            while True:
                for position in positions:
                    waiting.append((position, threads.submit(decode, pictures[position])))
                    if len(waiting) >= ahead:
                        break
                if not waiting:
                    return
                position, future = waiting.popleft()
                try:
                    yield future.result()
                except PictureError as error:
                    if strict:
                        threads.shutdown(cancel_futures=True)
                        raise
                    skipped.append(SkippedPicture(position, _name_of(pictures[position]), str(error)))


def build_image_backbone(config: dict[str, Any]) -> nn.Module:
    """Returns the picture backbone for a config dictionary with `model_type`; its weights are not set."""
    settings = dict(config)
    model_type = settings.pop("model_type")
    if model_type == "efficientnet_lite":
        settings["stages"] = tuple(tuple(stage) for stage in settings["stages"])
        return EfficientNetLite(EfficientNetLiteConfig(**settings))
    if model_type == "clip_resnet":
        from babelclip.models.resnet import ClipResNet, ClipResNetConfig

        settings["layers"] = tuple(settings["layers"])
        return ClipResNet(ClipResNetConfig(**settings))
    parsed, model_class = parsed_backbone(config)
    backbone = bare(model_class._from_config(parsed))
    return NaflexTower(backbone) if model_type == "siglip2_vision_model" else backbone


def _as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
        return [pictures]
    return list(pictures)


def _batched(items: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _name_of(picture: Picture) -> str:
    return str(picture) if isinstance(picture, (str, Path)) else f"<{type(picture).__name__}>"
