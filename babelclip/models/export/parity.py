"""Is an exported folder the same model? It is read back by the library it was made for, and its vectors are compared.

Every text and picture goes in three ways: all in one padded batch, one at a time, and in small mixed batches, because
what is frozen in a graph, or masked wrongly, shows in only some of them. Compared are rows of length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from babelclip.models.clip import Clip
from babelclip.models.text import normalize_rows

# From one token to beyond every context length, in several scripts.
PROBE_TEXTS = (
    "dog",
    "two dogs playing in the snow",
    "en röd cykel lutad mot en vägg",
    "собака бежит по пляжу на закате",
    "一只猫坐在窗台上看着外面的雨",
    "قارب صغير على بحيرة هادئة",
    "पहाड़ों के बीच एक पुराना मंदिर",
    "A crowded street market at night, with red lanterns, steam over the food stalls and people under umbrellas.",
    "",
    "the quick brown fox jumps over the lazy dog " * 12,
)
_SIZES = ((64, 64), (61, 47), (35, 90), (320, 200), (24, 24))
_MIXED = 3
# Largest difference of a coordinate and smallest cosine, of unit vectors. float16 keeps 11 bits of each weight; 8 bits
# move vectors visibly, and only their direction is bounded.
BOUNDS: dict[str, tuple[float, float]] = {
    "float32": (1e-4, 0.99999),
    "float16": (1e-2, 0.999),
    "int8": (1.0, 0.95),
}

Encode = Callable[[Sequence[Any]], np.ndarray]


@dataclass(frozen=True)
class Parity:
    """The comparison of one tower.

    Attributes:
        tower: "text" or "image".
        read_by: the library that read the files.
        items: texts or pictures.
        max_difference: largest absolute difference of a coordinate.
        min_cosine: smallest cosine between a vector and the model's.
        mean_cosine: their mean.
        bound_difference: what `max_difference` may be.
        bound_cosine: what `min_cosine` must be.
    """

    tower: str
    read_by: str
    items: int
    max_difference: float
    min_cosine: float
    mean_cosine: float
    bound_difference: float
    bound_cosine: float

    @property
    def passed(self) -> bool:
        """Whether both bounds are kept; a vector that is no number keeps none."""
        return self.max_difference <= self.bound_difference and self.min_cosine >= self.bound_cosine

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for JSON."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class _Reader:
    library: str
    text: Encode | None = None
    image: Encode | None = None


def probe_pictures() -> list[Image.Image]:
    """Returns pictures of several sizes: smooth colours with grain, the same on every machine."""
    rng = np.random.default_rng(11)
    pictures = []
    for width, height in _SIZES:
        y, x = np.mgrid[0:height, 0:width]
        waves = [127 + 90 * np.sin(rng.uniform(0.02, 0.4) * x + rng.uniform(0.02, 0.4) * y + c) for c in range(3)]
        grain = rng.uniform(-30, 30, size=(height, width, 3))
        pictures.append(Image.fromarray(np.clip(np.stack(waves, axis=-1) + grain, 0, 255).astype(np.uint8)))
    return pictures


def check(
    clip: Clip, folder: Path, *, to: str, dtype: str = "float32", towers: str = "both", **options: Any
) -> list[Parity]:
    """Returns the comparison of each exported tower with the model's; empty where nothing installed reads the files.

    Args:
        clip: the model that was exported.
        folder: what was written.
        to: the target.
        dtype: how its weights are stored; sets the bounds.
        towers: what was exported.
        options: what the export was told besides.
    """
    if to == "diffusers":
        return _conditioning_states(clip, folder, dtype, options["preset"])
    reader = _READERS.get(to, _own)(clip, folder, towers)
    compared = []
    if reader.text is not None and clip.text is not None and towers != "image":
        wanted = clip.encode_text(list(PROBE_TEXTS))
        compared.append(_compare("text", reader.library, reader.text, list(PROBE_TEXTS), wanted, dtype))
    if reader.image is not None and clip.image is not None and towers != "text":
        pictures = probe_pictures()
        compared.append(_compare("image", reader.library, reader.image, pictures, clip.encode_image(pictures), dtype))
    return compared


def _compare(tower: str, library: str, encode: Encode, items: list[Any], wanted: np.ndarray, dtype: str) -> Parity:
    mixed = np.random.default_rng(5).permutation(len(items))
    batches = [np.arange(len(items)), *np.arange(len(items))[:, None], *np.array_split(mixed, len(items) // _MIXED)]
    rows = np.concatenate(batches)
    found = normalize_rows(np.concatenate([encode([items[row] for row in batch]) for batch in batches]))
    return _figures(tower, library, len(items), found, normalize_rows(wanted[rows]), dtype)


def _figures(tower: str, library: str, items: int, found: np.ndarray, wanted: np.ndarray, dtype: str) -> Parity:
    difference, cosine = BOUNDS[dtype]
    cosines = (found.astype(np.float64) * wanted).sum(axis=-1)
    return Parity(
        tower=tower,
        read_by=library,
        items=items,
        max_difference=float(np.abs(found.astype(np.float64) - wanted).max()),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        bound_difference=difference,
        bound_cosine=cosine,
    )


def _runtime(clip: Clip, folder: Path, towers: str) -> _Reader:
    from babelclip.models.export.runtime import open_exported

    encoders = open_exported(folder)
    library = "openvino" if encoders.config["format"].endswith("openvino") else "onnxruntime"
    text = encoders.encode_text if encoders.text is not None else None
    return _Reader(library, text, encoders.encode_image if encoders.image is not None else None)


def _sentence_transformers(clip: Clip, folder: Path, towers: str) -> _Reader:
    if find_spec("sentence_transformers") is None:
        return _own(clip, folder, towers)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(items: Sequence[Any]) -> np.ndarray:
        return np.asarray(model.encode(list(items), normalize_embeddings=True))

    return _Reader("sentence-transformers", encode, encode)


def _altclip(clip: Clip, folder: Path, towers: str) -> _Reader:
    import torch
    import transformers

    model = transformers.AltCLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert clip.image is not None  # the layout holds both towers, and its writer has seen to it
    preprocess = clip.image.preprocess

    def vectors(output: Any) -> np.ndarray:
        return np.asarray((output if isinstance(output, torch.Tensor) else output.pooler_output).numpy())

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return vectors(model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"]))

    @torch.inference_mode()
    def image(pictures: Sequence[Image.Image]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([preprocess(picture) for picture in pictures]))
        return vectors(model.get_image_features(pixels))

    return _Reader("transformers", text, image)


def _own(clip: Clip, folder: Path, towers: str) -> _Reader:
    """What babelclip reads back, for layouts whose own library is absent or no longer installs."""
    import babelclip

    loaded = babelclip.load(folder, towers=towers, dtype="float32", device="cpu", space=clip.space)
    text = None if loaded.text is None else lambda texts: loaded.encode_text(list(texts))
    image = None if loaded.image is None else lambda pictures: loaded.encode_image(list(pictures))
    return _Reader("babelclip", text, image)


def _openclip(clip: Clip, folder: Path, towers: str) -> _Reader:
    try:
        import open_clip
    except Exception:  # not installed, or beside a torchvision that does not import (any error)
        return _own(clip, folder, towers)
    import torch

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()  # open_clip leaves text encoders of transformers and ResNets in training mode
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(model.encode_text(tokenizer(list(texts))).float().numpy())

    @torch.inference_mode()
    def image(pictures: Sequence[Image.Image]) -> np.ndarray:
        return np.asarray(model.encode_image(torch.stack([preprocess(picture) for picture in pictures])).numpy())

    return _Reader("open_clip", text, image)


def _conditioning_states(clip: Clip, folder: Path, dtype: str, preset: str) -> list[Parity]:
    """Diffusers' class gives token states in place of vectors; each state counts as a row."""
    if find_spec("diffusers") is None or clip.text is None:
        return []
    import torch
    import transformers
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesModelWithTransformation,
    )

    encoder = RobertaSeriesModelWithTransformation.from_pretrained(folder / "text_encoder").float().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    texts = list(PROBE_TEXTS)
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = encoder(tokens["input_ids"], tokens["attention_mask"], return_dict=True)[0].numpy()
    wanted = np.asarray(clip.text.encode_tokens(texts, preset=preset).states)
    found, wanted = (normalize_rows(array.reshape(-1, array.shape[-1])) for array in (states, wanted))
    return [_figures("text", "diffusers", len(texts), found, wanted, dtype)]


_READERS: dict[str, Callable[[Clip, Path, str], _Reader]] = {
    "onnx": _runtime,
    "openvino": _runtime,
    "sentence-transformers": _sentence_transformers,
    "openclip": _openclip,
    "altclip": _altclip,
}
