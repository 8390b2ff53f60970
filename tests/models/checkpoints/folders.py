"""Golden folders and broken copies of them, for the tests of the transformers layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from babelclip.models.clip import Clip
from tests.golden.inputs import TEXTS, pictures

GOLDEN = Path(__file__).parents[2] / "golden"
WEIGHTS = "model.safetensors"


def expected(name: str) -> dict[str, np.ndarray]:
    """The arrays that the original implementation computed."""
    with np.load(GOLDEN / name / "expected.npz") as arrays:
        return dict(arrays)


def copy_of(name: str, place: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, place / name))


def with_tensors(name: str, place: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a golden folder whose tensors `change` has changed in place."""
    folder = copy_of(name, place)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def with_json(name: str, place: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a golden folder with one JSON file changed in place."""
    folder = copy_of(name, place)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


def text_differences(clip: Clip, name: str) -> dict[str, float]:
    """Largest difference to the original for the whole list, one text at a time, and the list turned round."""
    right, order = expected(name), np.arange(len(TEXTS))[::-1]
    single = np.concatenate([clip.encode_text(text, normalize=False) for text in TEXTS])
    mixed = clip.encode_text([TEXTS[row] for row in order], normalize=False, token_budget=200)
    return {
        "list": float(np.abs(clip.encode_text(TEXTS, normalize=False) - right["text"]).max()),
        "single": float(np.abs(single - right.get("text_single", right["text"])).max()),
        "mixed": float(np.abs(mixed - right["text"][order]).max()),
    }


def image_differences(clip: Clip, name: str) -> dict[str, float]:
    """Largest difference to the original for all pictures, one at a time, and in small batches turned round."""
    right, shown = expected(name)["image"], list(pictures())
    single = np.concatenate([clip.encode_image(picture, normalize=False) for picture in shown])
    mixed = clip.encode_image(shown[::-1], normalize=False, batch_size=2)
    return {
        "list": float(np.abs(clip.encode_image(shown, normalize=False) - right).max()),
        "single": float(np.abs(single - right).max()),
        "mixed": float(np.abs(mixed - right[::-1]).max()),
    }


def logits_per_text(clip: Clip, images: list[Image.Image] | None = None) -> np.ndarray:
    """Scores (N texts, N pictures) of the golden inputs, made of what `Clip` gives."""
    cosines = clip.encode_text(TEXTS) @ clip.encode_image(pictures() if images is None else images).T
    return cosines * (clip.logit_scale or 1.0) + (clip.logit_bias or 0.0)
