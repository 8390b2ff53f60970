"""A service of a tiny model and a small collection, and its running in a thread, for tests of routes and page."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.search.collection import open_collection
from babelclip.search.index import index_pictures
from babelclip.search.server.app import create_app
from babelclip.search.server.decoder import Decoder
from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.metrics import Metrics
from babelclip.search.server.run import protocol
from babelclip.search.server.served import Served
from babelclip.search.server.service import Service
from babelclip.search.server.settings import Limits, Settings
from babelclip.search.server.tokens import KeyFile, Signer
from tests.conftest import COLOURS, draw_shape, make_clip

SHAPES = ("circle", "square", "triangle")


def make_pictures(folder: Path, sizes: tuple[int, ...] = (40, 44, 48, 52, 56, 60, 64, 68)) -> Path:
    """96 pictures of coloured shapes in eight sizes, each size on a ground of its own, with a caption beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    grounds = np.random.default_rng(0).integers(0, 256, (len(sizes), 4, 4, 3), dtype=np.uint8)
    for size, ground in zip(sizes, grounds, strict=True):
        under = Image.fromarray(ground).resize((size, size), Image.Resampling.BICUBIC)
        for colour in COLOURS:
            for shape in SHAPES:
                name = f"{colour}-{shape}-{size}"
                drawn = draw_shape(colour, shape, size)
                Image.composite(drawn, under, drawn.convert("L").point(lambda level: 255 * (level < 250))).save(
                    folder / f"{name}.png"
                )
                (folder / f"{name}.txt").write_text(f"{colour} {shape}, {size} <b>wide</b>", encoding="utf-8")
    return folder


def seeing_clip(folder: Path) -> Clip:
    """A tiny model whose picture vectors lie around zero: random towers see all pictures as near duplicates."""
    clip = make_clip()
    assert clip.image is not None
    raw = clip.encode_image(sorted(make_pictures(folder / "shapes").glob("*.png")), normalize=False)
    head = [{"kind": "linear", "out": clip.embed_dim, "bias": False}, {"kind": "shift"}]
    image = ImageEncoder(clip.image.backbone, head=head, preprocess=clip.image.preprocess).eval()
    weights = dict(clip.image.state_dict())
    weights.update({name: -torch.from_numpy(raw.mean(axis=0)) for name in image.state_dict() if name not in weights})
    image.load_state_dict(weights)
    return dataclasses.replace(clip, image=image)


def make_collection(clip: Clip, folder: Path, **choices: Any) -> Path:
    """A collection of `make_pictures`, which lie beside it."""
    place = folder / "shapes.lance"
    index_pictures(clip, [make_pictures(folder / "shapes")], place, groups=False, **choices)
    return place


def make_service(collection: Path, clip: Clip | None = None, keys: Path | None = None, **choices: Any) -> Service:
    """The service as `open_service` makes it, with a model that is no folder."""
    clip = clip or make_clip()
    limits = choices.pop("limits", Limits(per_minute=0))
    settings = Settings({"shapes": str(collection)}, models=("tiny",), limits=limits, refresh=0.0, **choices)
    metrics = Metrics()
    decoder = Decoder(workers=1, pixels=limits.pixels, seconds=limits.decode_seconds, memory=limits.decode_memory)
    encoder = QueryEncoder(clip, "tiny", settings, decoder, metrics.observe)
    served = Served("shapes", open_collection(collection), settings.refresh, fast=settings.fast)
    return Service(
        settings, {"tiny": encoder}, {"shapes": served}, metrics, Signer(), decoder, KeyFile(keys) if keys else None
    )


@contextlib.contextmanager
def running(service: Service) -> Iterator[str]:
    """The address of the service, which runs in a thread."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(create_app(service), port=port, log_level="error", lifespan="on", http=protocol())  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the service does not start"
        assert time.monotonic() < until, "the service takes too long to start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the service does not end"
