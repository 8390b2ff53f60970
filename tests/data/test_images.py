from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from babelclip.data.images import list_pictures, picture_suffixes
from babelclip.errors import BabelclipError


@pytest.fixture
def folder(tmp_path):
    names = """b.png a.JPG notes.txt clip.mp4 .hidden.png .git/c.png cache/d.png sub/e.webp sub/deeper/f.gif
    sub/cache/g.png odd.name.jpeg två.png""".split()
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"only the name counts")
    return tmp_path


def names(pictures, folder):
    return [path.relative_to(folder).as_posix() for path in pictures]


def test_pictures_of_all_folders_are_listed_in_order_without_hidden_ones(folder):
    found = list_pictures(folder)
    assert all(isinstance(path, Path) for path in found)
    expected = "a.JPG b.png cache/d.png odd.name.jpeg sub/cache/g.png sub/deeper/f.gif sub/e.webp två.png"
    assert names(found, folder) == expected.split()
    assert found == sorted(found)


def test_a_hidden_folder_that_was_asked_for_is_read(folder):
    assert names(list_pictures(folder / ".git"), folder) == [".git/c.png"]


def test_a_link_that_leads_back_does_not_loop(folder):
    (folder / "sub/loop").symlink_to(folder, target_is_directory=True)
    assert len(list_pictures(folder)) == 8


def test_every_listed_suffix_has_a_decoder():
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tiff"} <= picture_suffixes()
    assert not {".mpg", ".eps", ".ps", ".h5", ".pdf", ".wmf", ".txt"} & picture_suffixes()
    assert {Image.registered_extensions()[suffix] for suffix in picture_suffixes()} <= set(Image.OPEN)


def test_a_missing_folder_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(BabelclipError, match=r"nowhere does not exist, .* give a folder"):
        list_pictures(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_an_error(folder):
    with pytest.raises(BabelclipError, match=r"b\.png is a file, .* give a folder"):
        list_pictures(folder / "b.png")


def test_a_folder_without_pictures_is_an_error_that_names_the_kinds(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(BabelclipError, match=r"no pictures\. .*\.jpg, \.png, .* give"):
        list_pictures(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_named_by_whoever_lists_pictures(folder, monkeypatch, caplog):
    from babelclip.data.embed_images import iter_picture_names
    from babelclip.data.sources import open_captions

    (folder / "a.txt").write_text("a dog")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for listed in (
        lambda: names(list_pictures(folder), folder),
        lambda: list(iter_picture_names(folder)),
        lambda: list(open_captions(folder, lang="en")),
    ):
        caplog.clear()
        listed()
        assert f"{folder / 'sub'} was left out: Permission denied" in caplog.text
