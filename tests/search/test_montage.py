from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from babelclip.errors import BabelclipError
from babelclip.models.preprocess import Preprocess
from babelclip.search import montage
from babelclip.search.montage import contact_sheet, font_for, save_sheet
from babelclip.search.thumbnails import HeldPicture, make_thumbnail, read_picture
from tests.conftest import draw_shape


def thumbnail(colour: str) -> bytes:
    return make_thumbnail(draw_shape(colour, "square", 200))[0]


def test_pictures_stand_in_rows_with_a_line_below(tmp_path):
    colours = ["red", "green", "blue", "yellow", "red"]
    sheet = contact_sheet([thumbnail(c) for c in colours], [(f"0.{n}", c) for n, c in enumerate(colours)], columns=2)
    assert sheet.size == (12 + 2 * 252, 12 + 3 * (240 + 36 + 12))
    red, green = sheet.getpixel((12 + 120, 12 + 120)), sheet.getpixel((12 + 252 + 120, 12 + 120))
    assert red[0] > 200 > red[1]
    assert green[1] > 140 > green[0]
    # Something is written below the first picture, nothing below the empty sixth place.
    assert np.asarray(sheet.crop((12, 252, 252, 290))).min() < 130
    assert np.asarray(sheet.crop((270, 12 + 2 * 288, 500, 12 + 3 * 288))).min() == 255
    save_sheet(sheet, tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").size == sheet.size


def test_a_missing_thumbnail_leaves_its_place_empty():
    assert contact_sheet([None], [("0.1", "")], title="dog").size[0] == 264


def test_nothing_to_show_and_other_names_are_refused(tmp_path):
    with pytest.raises(BabelclipError, match="no results"):
        contact_sheet([], [])
    with pytest.raises(BabelclipError, match=r"\.png"):
        save_sheet(Image.new("RGB", (2, 2)), tmp_path / "s.jpg")


def test_a_font_has_every_character_of_the_text_or_there_is_none(monkeypatch):
    monkeypatch.setattr(montage, "_candidates", tuple)  # a machine without fonts
    assert font_for("a plain caption, été", 13) is not None
    assert font_for("狗", 13) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_thumbnails_of_every_mode_are_rgb_jpegs(mode):
    picture = Image.new(mode, (700, 350)) if mode in ("I;16", "F") else draw_shape("red", "square", 700).convert(mode)
    content, colour = make_thumbnail(picture)
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.mode, max(opened.size)) == ("RGB", 320)
    assert 0 <= colour <= 0xFFFFFF


def test_transparent_parts_are_white_and_pictures_are_never_enlarged():
    content, colour = make_thumbnail(Image.new("RGBA", (30, 20), (0, 0, 0, 0)))
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == (30, 20)
    assert colour == 0xFFFFFF


def test_a_look_at_a_picture_tells_its_facts():
    file = io.BytesIO()
    draw_shape("blue", "square", 90).save(file, "PNG")
    pixels, found = read_picture(Preprocess(resize=32, crop=32), HeldPicture("x.png", file.getvalue()))
    assert pixels.shape == (3, 32, 32)
    assert (found.width, found.height, found.size) == (90, 90, len(file.getvalue()))
    assert len(found.sha256) == 64
