from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from babelclip.errors import BabelclipError
from babelclip.starter.tuxpaint import is_photograph, photographs, read_stamps
from tests.conftest import draw_shape


def noise(size: int = 120, seed: int = 0) -> Image.Image:
    """What a photograph is to the filter: many colours, no flat areas."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def stamp(folder: Path, place: str, captions: str | bytes, picture: Image.Image | None = None) -> None:
    path = folder / f"{place}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or draw_shape("red", "circle")).save(path)
    content = captions if isinstance(captions, bytes) else captions.encode()
    path.with_suffix(".txt").write_bytes(content)


@pytest.fixture
def stamps(tmp_path):
    folder = tmp_path / "stamps"
    stamp(
        folder,
        "animals/birds/crow",
        "A crow.\nsv.utf8=En kråka.\nzh_TW.utf8=烏鴉\nca@valencia.utf8=Un corb.\n",
        noise(),
    )
    stamp(folder, "animals/birds/crow2", "a  CROW.\r\nar.utf8=غراب\r\nde.utf8=\r\nsv.utf8=Kråka\r\nsv.utf8=Igen\r\n")
    stamp(folder, "food/apple", b"An apple.\nfr.utf8=Une pomme.\nde.utf8=\xff\xfe\nqqx.utf8=hmm\nnot a caption\n")
    stamp(folder, "food/apple_mirror", "An apple.\n")
    stamp(folder, "symbols/letters/a", "The letter a.\n")
    stamp(folder, "town/broken", "A house.\n")
    (folder / "town" / "broken.png").write_bytes(b"no picture")
    draw_shape("blue", "square").save(folder / "town" / "silent.png")
    return folder


def test_captions_are_read_with_their_language_picture_and_english_row(stamps):
    captions = read_stamps(stamps)
    rows = {row["id"]: row for row in captions.table.to_pylist()}
    assert set(rows) == {
        "animals/birds/crow:en",
        "animals/birds/crow:sv",
        "animals/birds/crow:zh-Hant",
        "animals/birds/crow:ca-valencia",
        "animals/birds/crow2:en",
        "animals/birds/crow2:ar",
        "animals/birds/crow2:sv",
        "food/apple:en",
        "food/apple:fr",
    }
    crow = rows["animals/birds/crow:sv"]
    assert (crow["text"], crow["lang"]) == ("En kråka.", "sv")
    assert crow["source_id"] == "animals/birds/crow:en"
    assert crow["image"] == str(stamps / "animals/birds/crow.png")
    assert rows["animals/birds/crow2:sv"]["text"] == "Kråka"


def test_equal_english_captions_are_one_group_of_relevance(stamps):
    labels = {row["id"]: row["label"] for row in read_stamps(stamps).table.to_pylist()}
    assert labels["animals/birds/crow:sv"] == labels["animals/birds/crow2:en"]
    assert labels["food/apple:en"] != labels["animals/birds/crow:en"]


def test_what_is_left_out_is_counted_by_reason(stamps):
    assert read_stamps(stamps).skipped == {
        "caption of invalid UTF-8": 1,
        "caption in the unknown language qqx": 1,
        "line that is no caption": 1,
        "empty caption": 1,
        "second caption in a language": 1,
        "picture that does not decode": 1,
        "picture without an English caption": 1,
    }


def test_a_folder_without_stamps_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(BabelclipError, match=r"holds no Tux Paint stamps.*tuxpaint-stamps-default"):
        read_stamps(tmp_path)


def test_photographs_are_told_from_drawings(stamps):
    assert set(photographs(read_stamps(stamps)).ids) == {
        f"animals/birds/crow:{lang}" for lang in ("en", "sv", "zh-Hant", "ca-valencia")
    }


def test_a_photograph_has_many_colours_few_equal_neighbours_and_some_size(tmp_path):
    assert is_photograph(noise())
    assert not is_photograph(noise(size=89))
    assert not is_photograph(draw_shape("red", "circle", size=200))
    doubled = noise().resize((240, 120), Image.Resampling.NEAREST)
    assert not is_photograph(doubled)
    few_colours = Image.fromarray((np.asarray(noise()) // 64 * 64).astype(np.uint8))
    assert not is_photograph(few_colours)


def test_only_opaque_pixels_decide_what_a_photograph_is():
    pixels = np.zeros((200, 200, 4), dtype=np.uint8)
    pixels[60:140, 60:140, :3] = np.asarray(noise(80))
    pixels[60:140, 60:140, 3] = 255
    assert is_photograph(pixels)
    pixels[..., 3] = 0
    assert not is_photograph(pixels)


def test_pictures_without_a_photograph_among_them_are_one_clear_error(stamps):
    drawings = read_stamps(stamps).select(lang="fr")
    with pytest.raises(BabelclipError, match="None of the 1 pictures looks like a photograph"):
        photographs(drawings)
