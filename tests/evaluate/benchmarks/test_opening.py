"""Every benchmark of the list opens from a miniature of its layout, and says what it expects where that is missing."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from PIL import Image

from babelclip.data.captions import SCHEMA, Captions, read_captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks import benchmark_names, entries, find_entry, open_benchmark
from babelclip.evaluate.benchmarks.own import builtin_path
from babelclip.evaluate.benchmarks.sets import (
    ClassificationSet,
    ParallelTexts,
    Pictures,
    PixelPicture,
    RetrievalSet,
    SelectionSet,
    SentencePairs,
)
from babelclip.languages import UnknownLanguageError
from tests.evaluate.benchmarks.layouts import COCO, LAYOUTS, made

KINDS = {
    "retrieval": RetrievalSet,
    "classification": ClassificationSet,
    "selection": SelectionSet,
    "sts": SentencePairs,
    "translation": ParallelTexts,
}


def texts_by_language(found: RetrievalSet) -> dict[str, list[tuple[str, str]]]:
    result: dict[str, list[tuple[str, str]]] = {}
    for row in found.captions.table.to_pylist():
        result.setdefault(row["lang"], []).append((row["image"], row["text"]))
    return result


def test_every_benchmark_of_the_list_has_a_miniature():
    assert set(benchmark_names()) == set(LAYOUTS)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_benchmark_opens_from_the_layout_of_its_authors(name, tmp_path):
    found = open_benchmark(made(name, tmp_path))
    entry = find_entry(name)
    assert isinstance(found, KINDS[entry.task])
    assert found.name == name
    assert found.languages
    assert set(entry.notes) <= set(found.notes)
    if isinstance(found, RetrievalSet):
        assert set(found.captions.table["image"].to_pylist()) <= set(found.pictures.ids)
    pictures = getattr(found, "pictures", None)
    if isinstance(pictures, Pictures):
        assert pickle.loads(pickle.dumps(pictures.sources)) == pictures.sources  # as worker processes get them
        for position in range(len(pictures)):
            assert isinstance(pictures.open(position), Image.Image)
        assert len({pictures.content_key(position) for position in range(len(pictures))}) == len(pictures)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_missing_files_give_the_expected_tree_and_who_publishes_it(entry, tmp_path):
    (tmp_path / "unrelated.bin").write_bytes(b"")
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BabelclipError) as caught:
            open_benchmark(f"{entry.name}={root}")
        message = str(caught.value)
        if entry.name not in ("captions", "folder", "builtin") or root != tmp_path:
            assert entry.tree.strip().splitlines()[0].strip() in message
            assert entry.published in message
        assert str(root) in message


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("xm360=x", "xm3600"),
        ("xm3600", "xm3600=DIR"),
        ("xm3600=", "xm3600=DIR"),
        ("xm3600-lowercased=x", "Allowed: first"),
        ("stsb-first=x", "Allowed: lowercased"),
        ("cifar10-first=x", "one way only"),
    ],
)
def test_wrong_words_give_an_error_that_names_the_right_ones(spec, named):
    with pytest.raises(BabelclipError, match=named):
        open_benchmark(spec)


def test_languages_are_read_by_any_of_their_codes_and_named_by_bcp47(tmp_path):
    spec = made("xtd10", tmp_path)
    assert open_benchmark(spec).languages == ("de", "en", "ja", "ko")
    found = open_benchmark(spec, languages=["jpn_Jpan", "de"])
    assert texts_by_language(found) == {
        "de": [(COCO[0], "de one"), (COCO[1], "de MARKED")],
        "ja": [(COCO[0], "jp one"), (COCO[1], "jp MARKED")],
    }
    with pytest.raises(BabelclipError, match=r"no XTD10 in sv. It has de, en, ja, ko"):
        open_benchmark(spec, languages=["sv"])
    with pytest.raises(UnknownLanguageError):
        open_benchmark(spec, languages=["qqq-q"])


def test_an_absent_split_names_those_that_are_there(tmp_path):
    with pytest.raises(BabelclipError, match=r"no split 'val'. It has test, restval"):
        open_benchmark(made("mscoco", tmp_path), split="val")
    with pytest.raises(BabelclipError, match=r"image_splits/train\.txt"):
        open_benchmark(made("multi30k", tmp_path), split="train")


def test_first_caption_protocol_is_a_set_of_its_own_name(tmp_path):
    spec = made("xm3600", tmp_path)
    every, first = open_benchmark(spec), open_benchmark(spec.replace("xm3600=", "xm3600-first="))
    assert (every.name, every.captions_per_image, len(every.captions)) == ("xm3600", "all", 5)
    assert (first.name, first.captions_per_image, len(first.captions)) == ("xm3600-first", "first", 4)
    assert ("000411001ff7dd4f", "en") in texts_by_language(first)["sv"]
    assert ("000411001ff7dd4f", "två") not in texts_by_language(first)["sv"]
    assert open_benchmark(spec, protocol="first").name == "xm3600-first"


def test_wit_ranks_each_language_against_its_own_pictures(tmp_path):
    found = open_benchmark(made("wit", tmp_path))
    assert found.pictures.ids == ("BNRATHAU.jpg", "wit-test_3")
    assert {lang: places.tolist() for lang, places in found.corpora.items()} == {"ar": [0, 1], "da": [0]}


def test_labels_of_own_captions_group_pictures_where_asked_for(tmp_path):
    spec = made("captions", tmp_path)
    assert open_benchmark(spec).groups is None
    assert open_benchmark(spec.replace("captions=", "captions-label=", 1)).groups == ("dog", "dog")
    assert open_benchmark(made("builtin", tmp_path)).groups == ("dog", "dog")


def test_the_builtin_set_is_looked_for_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BabelclipError, match="babelclip starter"):
        open_benchmark("builtin")
    made("builtin", tmp_path)
    captions = read_captions(tmp_path / "builtin/mine.jsonl")
    rows = [{**row, "image": str(tmp_path / "builtin" / row["image"])} for row in captions.table.to_pylist()]
    write_captions(Captions(pa.Table.from_pylist(rows, SCHEMA)), builtin_path())
    found = open_benchmark("builtin")
    assert (found.name, found.groups, len(found.pictures)) == ("builtin", ("dog", "dog"), 2)


def test_pictures_may_lie_elsewhere_and_under_the_names_of_another_release(tmp_path):
    spec = made("xtd10", tmp_path)
    (tmp_path / "xtd10/val2014").rename(tmp_path / "coco")
    for name in COCO:
        (tmp_path / "coco" / name).rename(tmp_path / "coco" / name.rsplit("_", 1)[1])
    with pytest.raises(BabelclipError, match="not one of the 2"):
        open_benchmark(spec)
    found = open_benchmark(f"{spec},images={tmp_path / 'coco'}")
    assert found.pictures.ids == COCO
    assert found.pictures.sources[0] == tmp_path / "coco/000000000042.jpg"
    with pytest.raises(BabelclipError, match="is no folder"):
        open_benchmark(f"{spec},images={tmp_path / 'absent'}")


def test_pictures_are_found_in_folders_that_are_links(tmp_path):
    spec = made("xtd10", tmp_path)
    clean = open_benchmark(spec).pictures
    (tmp_path / "xtd10/val2014").rename(tmp_path / "coco")
    (tmp_path / "xtd10/images").symlink_to(tmp_path / "coco")
    found = open_benchmark(spec).pictures
    assert found.ids == clean.ids
    assert found.sources[0] == tmp_path / "xtd10/images" / COCO[0]
    (tmp_path / "xtd10/again").symlink_to(tmp_path / "coco")  # one picture by two ways is one
    assert open_benchmark(spec).pictures.ids == clean.ids


def test_a_picture_that_two_folders_have_is_an_error_that_names_both(tmp_path):
    spec = made("xtd10", tmp_path)
    copy = tmp_path / "xtd10/other" / COCO[0]
    copy.parent.mkdir()
    copy.write_bytes(b"")
    with pytest.raises(BabelclipError, match=r"may be .*images=DIR"):
        open_benchmark(spec)


@pytest.mark.parametrize("name", ["/etc/hosts.jpg", "../outside.jpg", "x" * 300 + ".jpg", "nul\0l.jpg"])
def test_names_that_lead_out_of_the_folder_are_not_followed(name, tmp_path):
    from babelclip.evaluate.benchmarks.pictures import PictureFinder

    (tmp_path / "outside.jpg").write_bytes(b"")
    (tmp_path / "inside").mkdir()
    assert PictureFinder([tmp_path / "inside"]).find(name) is None


def test_content_key_follows_the_content_and_not_the_reader(tmp_path):
    found = open_benchmark(made("xtd10", tmp_path)).pictures
    key = found.content_key(0)
    assert found.select([1, 0]).content_key(1) == key
    path = found.sources[0]
    path.write_bytes(path.read_bytes() + b" ")
    assert found.content_key(0) != key
    red, same, blue = (PixelPicture(1, 1, pixel) for pixel in (b"\xff\0\0", b"\xff\0\0", b"\0\0\xff"))
    pixels = Pictures(("a", "b", "c"), (red, same, blue))
    assert pixels.content_key(0) == pixels.content_key(1) != pixels.content_key(2)
    assert len(set(pixels.sources)) == 2
    assert pixels.open(2).getpixel((0, 0)) == (0, 0, 255)
