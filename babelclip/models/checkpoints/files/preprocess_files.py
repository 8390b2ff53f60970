"""The picture preprocessing of published checkpoints, from the files that state it.

Three origins, and where they differ (all resize with Pillow and end with `(value / 255 - mean) / std` in float32; that
transformers multiplies by 1/255 in float64 instead changes none of the 256 values):

| | open_clip 3.3, OpenAI CLIP | transformers' image processors (CLIP, SigLIP, AltCLIP, MetaCLIP 2) |
|---|---|---|
| RGB | after resizing and cutting: a palette is resized by nearest neighbour, transparency is weighed in | before |
| transparency | dropped | laid on white |
| offset of the cut | half a pixel rounds to even | half a pixel is cut off |
| longer side | `int(size * long / short)` | the same |

transformers has three forms of one processor. Its Pillow form is the reference here: the torchvision form resizes with
other rounding, and 4.57 equals the Pillow form of 5.23 but drops transparency. White is the rule because 5.23 is what
is maintained, and the colours hidden under transparency are arbitrary. In files, a class name with the ending `Fast`
or `Pil` means the same processor.

Pillow itself decides pixels too: from 13.0 on it resizes a picture that loses much more height than width vertically
first. Up to 2.5 % of the values of tall pictures then differ from those of 10.4 to 12.3, which agree with one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.preprocess import Preprocess

Triple = tuple[float, float, float]

OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
HALF: Triple = (0.5, 0.5, 0.5)


class _Family(NamedTuple):
    """What a transformers image processor does where its file is silent."""

    mean: Triple
    std: Triple
    cuts: bool


_CLIP = _Family(OPENAI_MEAN, OPENAI_STD, cuts=True)
_SIGLIP = _Family(HALF, HALF, cuts=False)
_PROCESSORS = {"CLIPImageProcessor": _CLIP, "CLIPFeatureExtractor": _CLIP, "SiglipImageProcessor": _SIGLIP}
# Pillow's numbers of its filters, as `resample` stores them.
_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_FITS = {"shortest": "crop", "squash": "squash", "longest": "longest"}
# "random" concerns training; open_clip evaluates such a model with bicubic.
_OPEN_CLIP_INTERPOLATION = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}


def preprocess_from_open_clip(config: Mapping[str, Any]) -> Preprocess:
    """Returns the preprocessing that open_clip derives from the `preprocess_cfg` of its config file.

    Args:
        config: `size` (pixels, or `[height, width]`), `mean`, `std`, `interpolation`, `resize_mode`, `fill_color` and
            `mode`; what is absent or null has open_clip's default, other keys count for nothing, as there. open_clip
            always takes the size from the tower: the caller puts `image_size` of the `vision_cfg` under `size`.

    Raises:
        BabelclipError: a value is unknown, or the input is not square.
    """
    stated = {key: value for key, value in config.items() if value is not None}
    _require(stated.get("mode", "RGB") == "RGB", "mode", stated.get("mode"), "'RGB'")
    size = _square(stated.get("size", 224), "size")
    return Preprocess(
        resize=size,
        crop=size,
        interpolation=_choice(stated.get("interpolation", "bicubic"), "interpolation", _OPEN_CLIP_INTERPOLATION),
        mean=_triple(stated.get("mean", OPENAI_MEAN), "mean"),
        std=_triple(stated.get("std", OPENAI_STD), "std"),
        fit=_choice(stated.get("resize_mode", "shortest"), "resize_mode", _FITS),
        convert="after",
        alpha="drop",
        long_side="floor",
        crop_offset="round",
        fill_color=_whole(stated.get("fill_color", 0), "fill_color", least=0),
    )


def preprocess_from_hf(config: Mapping[str, Any], *, default_size: int | None = None) -> Preprocess:
    """Returns the preprocessing that transformers derives from a `preprocessor_config.json`.

    Pictures are always converted to RGB: with `do_convert_rgb` false or absent, as in some files, transformers would
    only fail on the others.

    Args:
        config: the file's content, in the schema of any version (`size` as a number or as a dictionary).
        default_size: pixels where the file names no size (`image_size` of the tower); 224 if None.

    Raises:
        BabelclipError: the processor is another family, a value is unknown, or the result would not be a square.
    """
    family = _family(config)
    for key in ("do_resize", "do_rescale", "do_normalize"):
        _require(config.get(key, True) is True, key, config.get(key), "true")
    factor = config.get("rescale_factor", 1 / 255)
    _require(_is_number(factor) and abs(factor * 255 - 1) < 1e-6, "rescale_factor", factor, "1/255")
    cuts = config.get("do_center_crop", family.cuts) is True
    fit, resize = _resizing(config.get("size") or default_size or 224, cuts)
    crop = _square(config.get("crop_size") or default_size or 224, "crop_size") if cuts else resize
    return Preprocess(
        resize=resize,
        crop=crop,
        interpolation=_choice(config.get("resample", 3), "resample", _RESAMPLE),
        mean=_triple(config.get("image_mean") or family.mean, "image_mean"),
        std=_triple(config.get("image_std") or family.std, "image_std"),
        fit=fit,
        convert="before",
        alpha="background",
        long_side="floor",
        crop_offset="floor",
    )


def _resizing(size: Any, cuts: bool) -> tuple[str, int]:
    """Returns `fit` and the side for a `size` of any schema; a lone number is the short side where a cut follows."""
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        _require(cuts, "size", dict(size), "height and width (without do_center_crop the result would not be square)")
        return "crop", _whole(size["shortest_edge"], "size")
    if isinstance(size, Mapping) or not cuts:
        return "squash", _square(size, "size")
    return "crop", _square(size, "size")


def _family(config: Mapping[str, Any]) -> _Family:
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIPImageProcessor"
    plain = str(name).removesuffix("Fast").removesuffix("Pil")
    if plain not in _PROCESSORS:
        raise BabelclipError(
            f"The image processor {name!r} is not known. {did_you_mean(plain, _PROCESSORS)} "
            "A model with another processor needs its own reader."
        )
    return _PROCESSORS[plain]


def _square(size: Any, key: str) -> int:
    """Returns the side of a square given as a number, [height, width] or {"height": ..., "width": ...}."""
    sides = size
    if isinstance(size, Mapping):
        _require(set(size) == {"height", "width"}, key, dict(size), "a number, or height and width")
        sides = [size["height"], size["width"]]
    if isinstance(sides, (list, tuple)):
        _require(len(sides) in (1, 2) and sides[0] == sides[-1], key, size, "a square")
        sides = sides[0]
    return _whole(sides, key)


def _whole(value: Any, key: str, least: int = 1) -> int:
    whole = _is_number(value) and value % 1 == 0 and value >= least
    _require(whole, key, value, f"a whole number from {least}")
    return int(value)


def _triple(value: Any, key: str) -> Triple:
    values = [value] * 3 if _is_number(value) else value
    fits = isinstance(values, (list, tuple)) and len(values) == 3 and all(_is_number(v) for v in values)
    _require(fits, key, value, "a number for each of the three channels")
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _choice(value: Any, key: str, meaning: Mapping[Any, str]) -> str:
    _require(
        isinstance(value, (str, int)) and value in meaning,
        key,
        value,
        " or ".join(repr(allowed) for allowed in meaning),
    )
    return meaning[value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(holds: bool, key: str, value: Any, allowed: str) -> None:
    if not holds:
        raise BabelclipError(
            f"The preprocessing file says {key} = {value!r}; {allowed} is what babelclip can follow. "
            "Copy the file again from the model's origin, or ask for a reader of this model."
        )
