"""Captions of the Tux Paint stamps: about 540 pictures, half of them photographs, named by people in 78 languages.

A stamp is `name.png` with `name.txt` beside it: line 1 is the English caption, further lines are `xx.utf8=caption`.
`debian.find_folder(STAMPS)` says where the stamps are; the package is 161 MB, mostly sound, of which 30 MB of pictures
and captions are kept. Entry points: `STAMPS`, `read_stamps`, `photographs`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from babelclip import languages
from babelclip.data.captions import Captions, text_key
from babelclip.errors import BabelclipError
from babelclip.models.preprocess import Picture, PictureError, open_picture
from babelclip.starter.debian import DebianPart

STAMPS = DebianPart(
    title="Tux Paint pictures",
    package="tuxpaint-stamps-default",
    version="2022.06.04-1",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    inside="usr/share/tuxpaint/stamps",
    kept=(".png", ".txt"),
    licence="GPL-2.0-or-later",
    attribution="Captioned pictures: Tux Paint stamps, Debian tuxpaint-stamps-default 2022.06.04, GPL-2+",
)
ATTRIBUTION = STAMPS.attribution

_TRANSLATION = re.compile(r"([A-Za-z_@]+)\.utf8=(.*)")
# Photographs have many colours and hardly two equal neighbours; drawings have few colours and flat areas.
_COLOURS = 250
_FLAT = 0.25
# A smaller picture is blown up more than twice on its way into a tower; what it shows is then guesswork.
_SHORTEST_SIDE = 90


def read_stamps(folder: Path | str) -> Captions:
    """Returns one row for each picture and language of a stamps folder, English first.

    Letters, digits and coins (`symbols/`) and mirrored copies are left out. `id` is the place of the picture and the
    language (`animals/birds/crow:sv`), `source_id` the English row (null in that row itself), `image` the path, and
    `label` the English caption in folded form: pictures with equal English captions are equally relevant.

    Captions in unknown languages, of invalid UTF-8, empty or doubled, and pictures without captions or that do not
    decode are counted in `skipped`.

    Raises:
        BabelclipError: the folder holds no stamps.
    """
    folder = Path(folder)
    skipped: Counter[str] = Counter()
    rows: list[tuple[str, str, str, str | None, str, str]] = []
    for picture in sorted(folder.rglob("*.png")):
        place = picture.relative_to(folder)
        if place.parts[0] == "symbols" or "_mirror" in picture.stem:
            continue
        captions = dict(_captions(picture.with_suffix(".txt"), skipped))
        if "en" not in captions:
            skipped["picture without an English caption"] += 1
        elif not _decodes(picture):
            skipped["picture that does not decode"] += 1
        else:
            key = place.with_suffix("").as_posix()
            label = text_key(captions["en"])
            rows += [
                (f"{key}:{lang}", text, lang, None if lang == "en" else f"{key}:en", str(picture), label)
                for lang, text in captions.items()
            ]
    if not rows:
        raise BabelclipError(
            f"{folder} holds no Tux Paint stamps: pictures name.png with captions in name.txt. "
            "Give the folder `stamps` of the package tuxpaint-stamps-default."
        )
    ids, texts, langs, sources, images, labels = (list(column) for column in zip(*rows, strict=True))
    result = Captions.from_columns(text=texts, lang=langs, id=ids, source_id=sources, image=images, label=labels)
    return dataclasses.replace(result, skipped={**result.skipped, **skipped})


def _captions(path: Path, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yields language and caption for each usable line, English first, each language once."""
    seen = set()
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            skipped["caption of invalid UTF-8"] += 1
            continue
        code = "en"
        if number > 0:
            match = _TRANSLATION.fullmatch(text)
            if match is None:
                if text:
                    skipped["line that is no caption"] += 1
                continue
            code, text = match[1], match[2].strip()
        try:
            lang = languages.normalize(code)
        except languages.UnknownLanguageError:
            skipped[f"caption in the unknown language {code}"] += 1
            continue
        if not text:
            skipped["empty caption"] += 1
        elif lang in seen:
            skipped["second caption in a language"] += 1
        else:
            seen.add(lang)
            yield lang, text


def _decodes(picture: Path) -> bool:
    try:
        open_picture(picture)
    except PictureError:
        return False
    return True


def photographs(captions: Captions) -> Captions:
    """Returns the rows whose picture is a photograph (see `is_photograph`).

    Raises:
        BabelclipError: no picture is one, or a row has no picture.
    """
    images = captions.require_images(strict=True).table.column("image").to_pylist()
    kept = {image: is_photograph(image) for image in dict.fromkeys(images)}
    if not any(kept.values()):
        raise BabelclipError(
            f"None of the {len(kept)} pictures looks like a photograph (at least {_SHORTEST_SIDE} pixels a side and "
            f"{_COLOURS} colours, few flat areas). Measure on all pictures, or give others."
        )
    return dataclasses.replace(captions, table=captions.table.filter(pa.array([kept[image] for image in images])))


def is_photograph(picture: Picture) -> bool:
    """Returns whether a picture, possibly cut out on transparency, looks like a photograph of a useful size.

    It does where its shorter side has at least 90 pixels, its opaque pixels show at least 250 colours at 5 bits a
    channel, and less than a quarter of the horizontal pairs of opaque pixels are equal. On the stamps of 2022.06.04
    that selects 237 of 538 pictures.
    """
    pixels = np.asarray(open_picture(picture).convert("RGBA"))
    if min(pixels.shape[:2]) < _SHORTEST_SIDE:
        return False
    opaque = pixels[..., 3] > 127
    red, green, blue = (pixels[..., channel].astype(np.int32) >> 3 for channel in range(3))
    colours = len(np.unique((red << 10 | green << 5 | blue)[opaque]))
    pairs = opaque[:, 1:] & opaque[:, :-1]
    equal = (pixels[:, 1:, :3] == pixels[:, :-1, :3]).all(axis=-1)
    return bool(colours >= _COLOURS and pairs.any() and equal[pairs].mean() < _FLAT)
