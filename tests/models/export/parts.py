"""What the tests of exports share: golden models, and the differences after a reload."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

import babelclip
from babelclip.models.clip import Clip
from babelclip.models.export.stored import ExportWarning
from tests.golden.inputs import TEXTS, pictures

GOLDEN = Path(__file__).parents[2] / "golden"
# The one text of TEXTS that ftfy and HTML entities change, and the pictures that only babelclip's origin prepares so.
REPAIRED = [number for number, text in enumerate(TEXTS) if "&amp;" in text]


def golden(name: str) -> Clip:
    """A golden checkpoint, on the CPU, with its exact weights."""
    return babelclip.load(GOLDEN / name, dtype="float32", device="cpu")


def quietly(export, clip: Clip, folder: Path, **options) -> Path:
    """Exports without the warning of what the other program does otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        return export(clip, folder, **options)


def text_differences(one: Clip, other: Clip) -> np.ndarray:
    """The largest absolute difference of each text's raw vectors (N,)."""
    return np.abs(one.encode_text(TEXTS, normalize=False) - other.encode_text(TEXTS, normalize=False)).max(axis=1)


def image_differences(one: Clip, other: Clip) -> np.ndarray:
    """The largest absolute difference of each picture's raw vectors (N,)."""
    made = pictures()
    return np.abs(one.encode_image(made, normalize=False) - other.encode_image(made, normalize=False)).max(axis=1)


def size(folder: Path) -> int:
    """Bytes of all weight files."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
