"""Results as one picture: a contact sheet with scores and captions, for a message, a report or a terminal's viewer.

Captions are in any script. Pillow takes one font for a text and draws boxes for what that lacks, so the font is chosen
for each text: the first of those installed that has all of its characters. Where none has, the words are left out
rather than shown as boxes, and the file name stands there.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from babelclip.errors import BabelclipError
from babelclip.files import atomic_path

_CELL, _GAP, _LINE, _TITLE = 240, 12, 18, 34
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 27), (113, 113, 122)
# Families that cover much, tried before the others in this order.
_FIRST = ("DejaVuSans.ttf", "NotoSans-Regular", "NotoSansCJK", "Arial Unicode", "NotoNaskhArabic", "NotoSans")
_FONT_SUFFIXES = (".ttf", ".ttc", ".otf")


def contact_sheet(
    thumbnails: Sequence[bytes | None], lines: Sequence[tuple[str, str]], *, title: str = "", columns: int = 0
) -> Image.Image:
    """Returns N pictures in rows, each with two lines of text below it.

    Args:
        thumbnails: N JPEG files; None leaves the place empty.
        lines: N pairs of lines: the score, and what the picture is (cut to the width).
        title: above all, for example the query.
        columns: pictures in a row; 0 takes about as many rows as columns, and 6 at most.

    Raises:
        BabelclipError: there is nothing to show.
    """
    if not thumbnails:
        raise BabelclipError("There are no results to make a picture of. Ask for something else, or a smaller score.")
    columns = columns or min(6, max(1, round(len(thumbnails) ** 0.5 + 0.3)))
    rows = -(-len(thumbnails) // columns)
    top = _GAP + (_TITLE if title else 0)
    height_of_cell = _CELL + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (_GAP + columns * (_CELL + _GAP), top + rows * height_of_cell), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        _write(pen, (_GAP, _GAP), title, 20, _INK, sheet.width - 2 * _GAP)
    for place, (content, (score, words)) in enumerate(zip(thumbnails, lines, strict=True)):
        left, upper = _GAP + place % columns * (_CELL + _GAP), top + place // columns * height_of_cell
        if content:
            with Image.open(io.BytesIO(content)) as opened:
                picture = opened.convert("RGB")
            picture.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + (_CELL - picture.width) // 2, upper + (_CELL - picture.height) // 2))
        _write(pen, (left, upper + _CELL + 2), score, 13, _FAINT, _CELL)
        _write(pen, (left, upper + _CELL + 2 + _LINE), words, 13, _INK, _CELL)
    return sheet


def save_sheet(sheet: Image.Image, path: Path | str) -> None:
    """Writes a contact sheet as PNG, whole or not at all.

    Raises:
        BabelclipError: the name ends in something else than .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise BabelclipError(f"{path} does not end in .png, and a contact sheet is written as PNG: give such a name.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sheet.save(file, "PNG")


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, colour: tuple[int, int, int], width: int
) -> None:
    line = " ".join(text.split())
    font = font_for(line, size)
    if font is None or not line:
        return
    while line and pen.textlength(line, font) > width:
        line = line[:-2].rstrip("…").rstrip() + "…" if len(line) > 2 else ""
    pen.text(place, line, colour, font)


def font_for(text: str, size: int) -> Any:
    """Returns a font that has every character of a text, None where none that is installed has."""
    letters = frozenset(character for character in text if not character.isspace() and character.isprintable())
    for path in _candidates():
        font = _font(path, size)
        if font is not None and all(_has(path, letter) for letter in letters):
            return font
    # Pillow's own font has Latin letters.
    return ImageFont.load_default(size) if all(ord(letter) < 0x250 for letter in letters) else None


@functools.cache
def _candidates() -> tuple[str, ...]:
    found = [str(path) for folder in _folders() if folder.is_dir() for path in sorted(_files(folder))]
    plain = [path for path in found if not any(word in Path(path).stem for word in ("Bold", "Italic", "Oblique"))]

    def order(path: str) -> tuple[int, str]:
        name = Path(path).name
        return next((rank for rank, first in enumerate(_FIRST) if name.startswith(first)), len(_FIRST)), name

    return tuple(sorted(plain, key=order))


def _files(folder: Path) -> Iterator[Path]:
    for here, _below, files in os.walk(folder):
        yield from (Path(here, name) for name in files if name.lower().endswith(_FONT_SUFFIXES))


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts")]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]


@functools.lru_cache(maxsize=64)
def _font(path: str, size: int) -> Any:
    try:
        return ImageFont.truetype(path, size)
    except OSError:
        return None


@functools.lru_cache(maxsize=65536)
def _has(path: str, letter: str) -> bool:
    """Returns whether a font draws a character otherwise than one that no font has."""
    font = _font(path, 16)
    if font is None:
        return False
    drawn, lacking = font.getmask(letter), font.getmask("\U0010fffe")
    return bool(drawn.size != lacking.size or bytes(drawn) != bytes(lacking))
