"""Models of every published layout for `fuzz.py`: the golden checkpoints of the tests, loaded and asked once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fuzz_reader import Reader

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
# What the originals gave, and where they are from; losses and metrics are no models.
_NOT_READ = ("expected.npz", "expected.json", "origin.json")
_NO_MODELS = ("make", "losses", "metrics", "__pycache__")


def _copied(name: str) -> Callable[[Path], object]:
    # A head that was converted by an earlier load is no part of the model.
    left_out = shutil.ignore_patterns(*_NOT_READ, "*Linear Weights.safetensors")
    return lambda folder: shutil.copytree(GOLDEN / name, folder, ignore=left_out)


def _read_model(folder: Path) -> None:
    import babelclip

    clip = babelclip.load(folder, dtype="float32", device="cpu")
    if clip.text is not None:
        clip.encode_text(["två hundar"])
    if clip.image is not None:
        clip.encode_image([np.zeros((8, 8, 3), np.uint8)])


def _read_tokenizer(folder: Path) -> None:
    from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer

    read_tokenizer(folder, max_length=16)(["två hundar"])


def checkpoint_readers() -> dict[str, Reader]:
    """Returns a reader for each golden checkpoint by name."""
    found = {}
    for path in sorted(GOLDEN.iterdir()):
        if not path.is_dir() or path.name in _NO_MODELS:
            continue
        tokenizer = path.name.startswith("tokenizer_")
        leaves = path.name.startswith("mclip_legacy")
        read = _read_tokenizer if tokenizer else _read_model
        name = f"{'' if tokenizer else 'model '}{path.name}".replace("_", " ")
        found[name] = Reader(_copied(path.name), read, weight=1.0 if tokenizer else 0.12, leaves=leaves)
    return found
