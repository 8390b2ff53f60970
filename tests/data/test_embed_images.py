"""Pictures to a store: each once, by the name that captions give it, through bad files, kills and resumes."""

from __future__ import annotations

import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from babelclip.data import embed_images as module
from babelclip.data.captions import Captions, write_captions
from babelclip.data.embed_images import embed_pictures, iter_picture_names
from babelclip.data.images import list_pictures
from babelclip.errors import BabelclipError
from babelclip.models.preprocess import PictureError
from babelclip.store import EmbeddingStore
from tests.conftest import draw_shape, make_clip
from tests.data.killed_embed import content


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 5)


@pytest.fixture
def photos(picture_folder):
    """Twelve good pictures and broken.jpg, a GIF of two frames, a PNG called .jpg, one cut off, one empty."""
    frames = [draw_shape("red", "circle"), draw_shape("blue", "square")]
    frames[0].save(picture_folder / "moving.gif", save_all=True, append_images=frames[1:])
    draw_shape("green", "circle").save(picture_folder / "really-png.jpg", format="PNG")
    whole = (picture_folder / "red-circle.png").read_bytes()
    (picture_folder / "more" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (picture_folder / "empty.webp").write_bytes(b"")
    (picture_folder / "notes.txt").write_text("no picture")
    return picture_folder


class Watching:
    """Notes which pictures the model is given, and can stop like a killed process after some calls."""

    def __init__(self, clip, monkeypatch, stop_after=None):
        self.calls, encode = [], clip.image.encode_readable

        def watched(paths, *given, **settings):
            if stop_after is not None and len(self.calls) >= stop_after:
                raise KeyboardInterrupt
            self.calls.append([path.name for path in paths])
            return encode(paths, *given, **settings)

        monkeypatch.setattr(clip.image, "encode_readable", watched)


def test_a_folder_is_embedded_by_names_and_what_cannot_be_read_is_named_and_counted(photos, tmp_path):
    clip, skipped, reports = make_clip(), [], []
    store = embed_pictures(clip, photos, tmp_path / "s", dtype="float32", on_skip=skipped.append, report=reports.append)
    bad = ["broken.jpg", "empty.webp", "cut.png"]
    assert [item.name.rsplit("/", 1)[1] for item in skipped] == bad
    assert sorted(store.ids) == sorted(
        path.relative_to(photos).as_posix() for path in list_pictures(photos) if path.name not in bad
    )
    expected = clip.encode_image([photos / name for name in store.ids], normalize=False)
    np.testing.assert_allclose(store.read(), expected, atol=1e-5)
    first_frame = clip.encode_image(Image.open(photos / "moving.gif").convert("RGB"), normalize=False)
    np.testing.assert_allclose(store.gather(store.positions(["moving.gif"])), first_frame, atol=1e-5)
    assert (store.kind, store.target, store.normalized, store.dim) == ("image", "projected", False, 16)
    report = reports[0]
    assert (report.added, report.skipped, report.encode.pictures, report.encode.skipped) == (14, 3, 14, 3)
    assert report.encode.advice().startswith("14 pictures in ")


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_run_that_was_stopped_ends_with_the_same_bytes_bad_pictures_or_not(photos, tmp_path, monkeypatch, stop):
    embed_pictures(make_clip(), photos, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        clip = make_clip()
        Watching(clip, patched, stop)
        embed_pictures(clip, photos, tmp_path / "cut")
    clip = make_clip()
    watched = Watching(clip, monkeypatch)
    embed_pictures(clip, photos, tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    given = [name for call in watched.calls for name in call]
    assert len(given) == len(set(given)) <= 17
    embed_pictures(clip, photos, tmp_path / "cut")
    assert set(watched.calls[-1]) <= {"broken.jpg", "empty.webp", "cut.png"}
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_new_and_mended_pictures_are_added(photos, tmp_path, monkeypatch):
    embed_pictures(make_clip(), photos, tmp_path / "s")
    draw_shape("blue", "circle").save(photos / "broken.jpg")
    draw_shape("blue", "circle").save(photos / "a-new-one.png")
    clip = make_clip()
    watched = Watching(clip, monkeypatch)
    store = embed_pictures(clip, photos, tmp_path / "s")
    assert {"broken.jpg", "a-new-one.png"} <= set(store.ids)
    assert {name for call in watched.calls for name in call} == {"a-new-one.png", "broken.jpg", "cut.png", "empty.webp"}
    assert store.verify() == []


def test_captions_give_each_of_their_pictures_once(photos, tmp_path, monkeypatch):
    names = ["red-circle.png", "blue-square.png", "broken.jpg", "more/red-triangle.png"]
    images = [names[n % 4] for n in range(40)] + [None]
    rows = Captions.from_columns(text=[f"text {n}" for n in range(41)], lang="en", image=images)
    write_captions(rows, tmp_path / "c.jsonl")
    monkeypatch.setattr("babelclip.data.parts.ROWS", 7)
    clip, reports = make_clip(), []
    watched = Watching(clip, monkeypatch)
    store = embed_pictures(clip, tmp_path / "c.jsonl", tmp_path / "s", root=photos, report=reports.append)
    assert store.ids == [name for name in names if name != "broken.jpg"]
    assert sum(map(len, watched.calls)) == 4
    assert (reports[0].without_picture, reports[0].skipped) == (1, 1)
    write_captions(rows, photos / "c.jsonl")
    beside = embed_pictures(make_clip(), photos / "c.jsonl", tmp_path / "t")
    np.testing.assert_array_equal(beside.read(), store.read())


def test_pooled_pictures_are_what_enters_the_projection(photos, tmp_path):
    clip = make_clip()
    store = embed_pictures(clip, photos, tmp_path / "s", target="pooled", dtype="float32")
    paths = [photos / name for name in store.ids]
    np.testing.assert_allclose(store.read(), clip.image.encode(paths, before_head=True), atol=1e-5)
    assert (store.dim, store.target) == (32, "pooled")


def test_strict_stops_at_the_first_bad_picture_and_keeps_the_blocks_before(photos, tmp_path):
    with pytest.raises(PictureError, match=r"broken\.jpg"):
        embed_pictures(make_clip(), photos, tmp_path / "s", strict=True)
    (photos / "broken.jpg").unlink()
    with pytest.raises(PictureError, match=r"empty\.webp"):
        embed_pictures(make_clip(), photos, tmp_path / "s", strict=True)
    assert len(EmbeddingStore.open(tmp_path / "s")) in (0, 5, 10)


def test_a_picture_that_changed_since_is_refused_by_name(photos, tmp_path):
    embed_pictures(make_clip(), photos, tmp_path / "s")
    draw_shape("yellow", "square", size=77).save(photos / "red-circle.png")
    with pytest.raises(
        BabelclipError, match=r"1 pictures are not those .* first 'red-circle.png', whose file has .* new folder"
    ):
        embed_pictures(make_clip(), photos, tmp_path / "s")


def test_sources_without_a_readable_picture_are_an_error(photos, tmp_path):
    write_captions(Captions.from_columns(text=["a"], lang="en"), tmp_path / "none.jsonl")
    with pytest.raises(BabelclipError, match="none of its 1 captions has a value in the column 'image'"):
        embed_pictures(make_clip(), tmp_path / "none.jsonl", tmp_path / "s")
    write_captions(Captions.from_columns(text=["a"], lang="en", image=["absent.jpg"]), tmp_path / "c.jsonl")
    with pytest.raises(BabelclipError, match=r"None of the 1 pictures of .* --image-root"):
        embed_pictures(make_clip(), tmp_path / "c.jsonl", tmp_path / "s")
    embed_pictures(make_clip(), photos, tmp_path / "vectors")
    with pytest.raises(BabelclipError, match="kind is 'image', asked for 'text'"):
        from babelclip.data.embed import embed_captions

        embed_captions(make_clip(), Captions.from_columns(text=["a"], lang="en"), tmp_path / "vectors")


def test_names_that_are_not_utf8_are_skipped_and_named(photos, tmp_path):
    odd = photos / "caf\udce9.png"
    odd.write_bytes((photos / "red-circle.png").read_bytes())
    skipped = []
    store = embed_pictures(make_clip(), photos, tmp_path / "s", on_skip=skipped.append)
    assert len(store) == 14
    assert any("not UTF-8" in item.reason for item in skipped)


def test_names_come_folder_by_folder_and_hidden_ones_do_not(photos):
    (photos / ".hidden").mkdir()
    draw_shape("red", "circle").save(photos / ".hidden" / "a.png")
    names = list(iter_picture_names(photos))
    assert names == [*sorted(name for name in names if "/" not in name), *sorted(n for n in names if "/" in n)]
    assert sorted(names) == sorted(path.relative_to(photos).as_posix() for path in list_pictures(photos))


def test_a_killed_process_goes_on_to_the_same_store(tmp_path):
    """SIGKILL at random moments; killed_embed.py takes more of them by hand."""
    command = [sys.executable, "-m", "tests.data.killed_embed", str(tmp_path), "2", "pictures"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"equal": true' in done.stdout


def test_pictures_inside_tars_are_read_by_the_names_that_captions_give_them(photos, tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name in ("red-circle.png", "broken.jpg", "blue-square.png"):
            tar.add(photos / name, arcname=f"in/{name}")
    images = [f"00000.tar::in/{name}" for name in ("red-circle.png", "broken.jpg", "blue-square.png", "absent.png")]
    write_captions(Captions.from_columns(text=["a"] * 4, lang="en", image=images), tmp_path / "c.jsonl")
    clip, skipped = make_clip(), []
    store = embed_pictures(clip, tmp_path / "c.jsonl", tmp_path / "s", dtype="float32", on_skip=skipped.append)
    assert store.ids == [images[0], images[2]]
    assert ["absent.png" in item.reason or "broken.jpg" in item.reason for item in skipped] == [True, True]
    expected = clip.encode_image([photos / "red-circle.png", photos / "blue-square.png"], normalize=False)
    np.testing.assert_allclose(store.read(), expected, atol=1e-5)
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[: whole.index(b"in/blue-square.png") + 600])
    cut = embed_pictures(make_clip(), tmp_path / "c.jsonl", tmp_path / "cut")
    assert cut.ids == [images[0]]
    (tmp_path / "00000.tar").write_bytes(b"no tar at all")
    with pytest.raises(BabelclipError, match="None of the 4 pictures"):
        embed_pictures(make_clip(), tmp_path / "c.jsonl", tmp_path / "none")
