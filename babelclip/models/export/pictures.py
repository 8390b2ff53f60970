"""The preprocessing of pictures as other programs describe it, and in what it departs from the tower's own."""

from __future__ import annotations

from typing import Any

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf, preprocess_from_open_clip
from babelclip.models.preprocess import Preprocess

# Pillow's numbers of its filters, as `resample` stores them.
_RESAMPLE = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
# A picture is another one with another of these; the rest moves single pixels or concerns few pictures.
_DECIDES = ("resize", "crop", "interpolation", "mean", "std", "fit")
_RESIZE_MODES = {"crop": "shortest", "squash": "squash", "longest": "longest"}
_DIFFERENCES = {
    "convert": "palette and transparent pictures become RGB {there} resizing; in babelclip {here}",
    "alpha": "transparent pictures: {there} (babelclip: {here})",
    "long_side": "the longer side after resizing: {there} (babelclip: {here})",
    "crop_offset": "half a pixel at the cut of the middle: {there} (babelclip: {here})",
    "fill_color": "borders are filled with {there} (babelclip: {here})",
}
_SAID = {"background": "laid on white", "drop": "transparency dropped", "round": "rounded", "floor": "cut off"}


def hf_processor(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """Returns the `preprocessor_config.json` that comes closest, and the differences that remain, as sentences.

    Raises:
        BabelclipError: size, filter, colours or the way to the square cannot be said there.
    """
    square = {"height": preprocess.crop, "width": preprocess.crop}
    cuts = preprocess.fit == "crop"
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocess.resize} if cuts else square,
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_center_crop": cuts,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    return content, _compared(preprocess, preprocess_from_hf(content), "transformers' image processor")


def open_clip_preprocess(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """Returns the `preprocess_cfg` that comes closest, and the differences that remain, as sentences.

    Raises:
        BabelclipError: size, filter, colours or the way to the square cannot be said there.
    """
    content: dict[str, Any] = {
        "size": preprocess.crop,
        "mode": "RGB",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation if preprocess.interpolation == "bilinear" else "bicubic",
        "resize_mode": _RESIZE_MODES.get(preprocess.fit, "shortest"),
        "fill_color": preprocess.fill_color,
    }
    return content, _compared(preprocess, preprocess_from_open_clip(content), "open_clip")


def _compared(ours: Preprocess, theirs: Preprocess, program: str) -> list[str]:
    wrong = [f"{name} {getattr(ours, name)!r}" for name in _DECIDES if getattr(ours, name) != getattr(theirs, name)]
    if wrong:
        raise BabelclipError(
            f"The picture tower is prepared for {', '.join(wrong)}, which {program} does not do; its pixels would be "
            "others than the tower was made for. Export the text tower alone (towers='text'), or to another target."
        )
    notes = []
    for name, sentence in _DIFFERENCES.items():
        here, there = getattr(ours, name), getattr(theirs, name)
        if here != there:
            said = sentence.format(here=_SAID.get(here, here), there=_SAID.get(there, there))
            notes.append(f"In {program}, {said}.")
    return notes
