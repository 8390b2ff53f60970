"""The picture tower: preprocess, backbone, head; from files to vectors of the space."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.decoding import DecodedBatches, EncodeReport, Reader, decoder_pool
from babelclip.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from babelclip.models.encoding import Device, in_lanes, inference, replicas
from babelclip.models.head import LayerSpec, backbone_width, build_head
from babelclip.models.naflex import NaflexTower
from babelclip.models.preprocess import Picture, Preprocess
from babelclip.models.text import bare, normalize_rows, parsed_backbone
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
        workers: int = 0,
        devices: Sequence[Device] | None = None,
        progress: bool = False,
        report: Callable[[EncodeReport], None] | None = None,
    ) -> np.ndarray:
        """Returns picture features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Args:
            pictures: paths, PIL pictures or uint8 arrays; a single one counts as a list of one.
            normalize: False gives the raw projection.
            batch_size: pictures a forward pass.
            before_head: return the pooled vectors (N, H) that enter the head, never normalised.
            workers: processes that decode and preprocess; 0 does so in threads. Processes start in a second or two,
                and want `if __name__ == "__main__":` in scripts.
            devices: several devices of this machine, for example ["cuda:0", "cuda:1"]; None means where the tower is.
            progress: show a bar on stderr.
            report: is called once at the end with pictures a second and what the bottleneck was (`EncodeReport`).

        Raises:
            PictureError: a picture cannot be read. `encode_readable` skips and counts those instead.
            BabelclipError: a device is not there, or `batch_size` or `workers` is no such number.
        """
        features, _none_skipped = self.encode_readable(
            pictures,
            normalize,
            batch_size=batch_size,
            before_head=before_head,
            workers=workers,
            devices=devices,
            progress=progress,
            report=report,
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
        workers: int = 0,
        devices: Sequence[Device] | None = None,
        progress: bool = False,
        report: Callable[[EncodeReport], None] | None = None,
        strict: bool = False,
        pool: Executor | None = None,
        reader: Reader | None = None,
        took: Callable[[int, Any], None] | None = None,
    ) -> tuple[np.ndarray, list[SkippedPicture]]:
        """Returns features of the readable pictures (M, D) float32 in input order, and the pictures left out.

        Keywords are those of `encode`; `strict=True` raises `PictureError` at an unreadable picture. `pool` are
        decoders (`decoder_pool`) that outlive the call: who calls often does not start processes each time.
        `reader` decodes instead of `open_picture` and `preprocess`, so that a picture is decoded once for all that is
        wanted of it (a thumbnail, its size): the second of what it returns goes to `took`, with the position.
        """
        pictures = _as_list(pictures)
        if batch_size < 1:
            raise BabelclipError(f"batch_size is {batch_size}; it must be at least 1, for example 32.")
        began = perf_counter()
        width = backbone_width(self.backbone) if before_head else self.embed_dim
        features = np.empty((len(pictures), width), dtype=np.float32)
        skipped: list[SkippedPicture] = []
        waits: list[tuple[float, float]] = []  # of each batch: seconds without pixels, seconds of the model
        towers = replicas(self, devices)
        with (
            inference(self),
            decoder_pool(workers, len(pictures)) if pool is None else contextlib.nullcontext(pool) as decoders,
            progress_bar("Pictures", len(pictures), shown=progress, unit="pictures") as advance,
        ):
            batches = DecodedBatches(decoders, self.preprocess, pictures, batch_size, reader)

            def work(lane: nn.Module, _batch: int) -> None:
                start = perf_counter()
                positions, pixels, unreadable = batches.take()
                if strict and unreadable:
                    raise unreadable[0][1]
                skipped.extend(SkippedPicture(at, _name_of(pictures[at]), str(error)) for at, error in unreadable)
                if reader is not None:
                    for at, (_pixels, rest) in zip(positions, pixels, strict=True):
                        if took is not None:
                            took(at, rest)
                    pixels = [item[0] for item in pixels]
                decoded = perf_counter()
                if positions:
                    features[positions] = _forward(lane, pixels, before_head)
                waits.append((decoded - start, perf_counter() - decoded))
                advance(len(positions) + len(unreadable))

            in_lanes(work, range(-(-len(pictures) // batch_size)), towers)
        skipped.sort()
        if skipped:
            features = np.delete(features, [item.position for item in skipped], axis=0)
        if report is not None:
            decode_wait, model_seconds = (sum(part) for part in zip(*waits, strict=True)) if waits else (0.0, 0.0)
            report(EncodeReport(len(features), len(skipped), perf_counter() - began, decode_wait, model_seconds))
        return (normalize_rows(features) if normalize and not before_head else features), skipped


def _forward(tower: Any, pixels: list[np.ndarray], before_head: bool) -> np.ndarray:
    weight = next(tower.parameters())
    batch = torch.from_numpy(np.stack(pixels)).to(weight.device, weight.dtype)
    output: torch.Tensor = (tower.pooled if before_head else tower)(batch)
    return np.asarray(output.float().cpu().numpy())


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
    if isinstance(pictures, (str, Image.Image, np.ndarray)) or not isinstance(pictures, Iterable):
        return [pictures]
    return list(pictures)


def _name_of(picture: Picture) -> str:
    return f"<{type(picture).__name__}>" if isinstance(picture, (Image.Image, np.ndarray)) else str(picture)
