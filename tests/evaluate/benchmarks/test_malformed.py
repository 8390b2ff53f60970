"""Damaged copies of the miniatures: what has no bearing changes nothing, what can be left out is counted, what cannot
is one error that says what was given, what is needed and what to do."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks import find_entry, open_benchmark
from babelclip.evaluate.benchmarks.sets import RetrievalSet, SelectionSet, SentencePairs
from tests.data.layouts import write_tar
from tests.evaluate.benchmarks.layouts import COCO, FLICKR, LAYOUTS, MARK, made, write_json

TEXT_ENDINGS = (".txt", ".json", ".jsonl", ".tsv", ".csv", ".en", ".de", ".cs", ".fr", ".sv", ".devtest", ".dev")
WITHOUT_TEXT_FILES = {"cifar100", "imagenet1k", "imagenetv2"}
RETRIEVAL = sorted(name for name in LAYOUTS if find_entry(name).task == "retrieval")
# What a name inside a tar or a base64 row names cannot be deleted as a file.
WITH_PICTURE_FILES = sorted({*RETRIEVAL, "winoground", "sugarcrepe"} - {"wds", "chinese-clip"})
WITH_MARK = sorted(name for name in LAYOUTS if find_entry(name).task != "classification")


def text_files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix in TEXT_ENDINGS]


def facts(found) -> object:
    """Everything of a set but where it lies."""
    if isinstance(found, RetrievalSet):
        return found.captions.table.to_pylist(), found.pictures.ids, found.groups
    if isinstance(found, SelectionSet):
        return found.items, found.pictures.ids
    if isinstance(found, SentencePairs):
        return found.subsets, found.pair_languages
    if hasattr(found, "labels"):
        return found.labels.tolist(), found.classnames, found.templates, found.pictures.ids
    return found.texts


def spoil(root: Path, old: bytes, new: bytes) -> int:
    """Replaces bytes in every file; returns in how many."""
    count = 0
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if old in content:
            path.write_bytes(content.replace(old, new))
            count += 1
    return count


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - WITHOUT_TEXT_FILES))
def test_windows_line_ends_and_byte_order_marks_change_nothing(name, tmp_path):
    spec = made(name, tmp_path)
    clean = facts(open_benchmark(spec))
    files = text_files(tmp_path)
    assert files
    for path in files:
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    assert facts(open_benchmark(spec)) == clean


@pytest.mark.parametrize("name", WITH_PICTURE_FILES)
def test_a_missing_picture_is_counted_and_named_and_an_error_with_strict(name, tmp_path):
    spec = made(name, tmp_path)
    whole = open_benchmark(spec)
    source = Path(whole.pictures.sources[1])
    source.unlink()
    if name == "folder":
        with pytest.raises(BabelclipError, match="text without picture"):
            open_benchmark(spec, strict=True)
        assert len(open_benchmark(spec).pictures) == 1
        return
    found = open_benchmark(spec)
    assert len(found.pictures) < len(whole.pictures)
    told = " ".join(found.notes)
    assert "picture is not there" in told
    if isinstance(found, RetrievalSet):
        assert "1 of 2 pictures are not there: figures do not compare" in told
    with pytest.raises(BabelclipError, match="With strict everything must be usable"):
        open_benchmark(spec, strict=True)


@pytest.mark.parametrize("name", WITH_PICTURE_FILES)
def test_no_picture_at_all_is_one_error(name, tmp_path):
    spec = made(name, tmp_path)
    for source in open_benchmark(spec).pictures.sources:
        Path(source).unlink()
    with pytest.raises(BabelclipError):
        open_benchmark(spec)


@pytest.mark.parametrize("name", WITH_MARK)
def test_bytes_that_are_no_text_cost_one_caption_and_not_the_file(name, tmp_path):
    spec = made(name, tmp_path)
    clean = open_benchmark(spec)
    assert spoil(tmp_path, MARK.encode(), b"\xff" * len(MARK))  # as long, because a tar says how long members are
    found = open_benchmark(spec)
    assert any("UTF-8" in note for note in found.notes), found.notes
    assert facts(found) != facts(clean)
    with pytest.raises(BabelclipError):
        open_benchmark(spec, strict=True)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("xtd10", "XTD10/test_1kcaptions_ko.txt", "has 3 lines and .* has 2"),
        ("xtd200", "ace_Arab.txt", "has 3 lines and .* has 2"),
        ("flickr30k-200", "filenames.txt", "has 2 lines and .* has 3|names '' twice"),
        ("multi30k", "data/task1/raw/test_2016_flickr.cs", "has 3 lines and .* has 2"),
        ("multi30k-task2", "data/task2/raw/test_2016.2.de", "has 3 lines and .* has 2"),
        ("sts12", "STS12-en-test/STS.gs.images.txt", "has 2 lines and .* has 3"),
        ("sts17", "gs/STS.gs.track6.tr-en.txt", "has 2 lines and .* has 3"),
        ("multi30k-texts", "test_2016_flickr.fr", "3 lines .* 4 lines"),
        ("flores", "devtest/swe_Latn.devtest", "3 lines .* 4 lines"),
        ("parallel", "mine.sv", "3 lines .* 4 lines"),
    ],
)
def test_aligned_files_of_different_lengths_are_an_error_that_names_both_counts(name, file, message, tmp_path):
    spec = made(name, tmp_path)
    path = tmp_path / name / file
    path.write_bytes(path.read_bytes() + b"one more\n")
    with pytest.raises(BabelclipError, match=message) as caught:
        open_benchmark(spec)
    assert "take" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["xflickrco", "mscoco", "imagenet1k", "babel-imagenet", "sugarcrepe", "xm3600", "winoground", "wit"]
)
def test_broken_json_is_an_error_by_file_or_a_counted_line(name, tmp_path):
    spec = made(name, tmp_path)
    for path in [path for path in text_files(tmp_path) if path.suffix in (".json", ".jsonl")]:
        path.write_bytes(path.read_bytes().rstrip()[:-1])
    if name in ("xm3600", "winoground", "wit"):
        assert any(" left out: not a JSON object" in note for note in open_benchmark(spec).notes)
        with pytest.raises(BabelclipError, match="line 2: not a JSON object"):
            open_benchmark(spec, strict=True)
    else:
        with pytest.raises(BabelclipError, match=r"is not valid JSON .* copy it again"):
            open_benchmark(spec)


def extra_caption_babel(root: Path) -> None:
    content = json.loads((root / "xflickrco.json").read_text())
    content["captions"]["de"].append(["of no picture"])
    write_json(root / "xflickrco.json", content)


def caption_of_no_picture_coco(root: Path) -> None:
    images = [{"id": 1, "file_name": COCO[0]}, {"file_name": "without id"}]
    annotations = [{"image_id": 1, "caption": "a dog"}, {"image_id": 9, "caption": "of no picture"}, "no object"]
    (root / "dataset_coco.json").unlink()
    write_json(root / "captions_val2014.json", {"images": images, "annotations": annotations})


def line_of_no_picture(root: Path) -> None:
    path = root / "flickr30k_test_karpathy.txt"
    path.write_text(path.read_text() + "nothing\n99.jpg,of no picture\n")


def row_of_no_picture(root: Path) -> None:
    path = root / "test_texts.jsonl"
    path.write_text(path.read_text() + '{"text": "x", "image_ids": [99]}\n{"text": "y"}\n')
    tsv = root / "test_imgs.tsv"
    tsv.write_text(tsv.read_text() + "broken line\n")


@pytest.mark.parametrize(
    ("name", "change", "notes"),
    [
        ("mscoco", caption_of_no_picture_coco, ["2 left out: caption of a picture that the file does not name"]),
        (
            "flickr30k",
            line_of_no_picture,
            ["1 left out: line without picture and caption", "1 left out: caption whose picture"],
        ),
        (
            "chinese-clip",
            row_of_no_picture,
            ["line without id and picture", "text without image_ids", "caption whose picture is not there"],
        ),
    ],
)
def test_a_caption_too_many_is_counted(name: str, change: Callable[[Path], None], notes: list[str], tmp_path):
    spec = made(name, tmp_path)
    change(tmp_path / name)
    told = " ".join(open_benchmark(spec).notes)
    assert all(note in told for note in notes), told
    with pytest.raises(BabelclipError, match="With strict"):
        open_benchmark(spec, strict=True)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("xflickrco", "xflickrco.json", [1], "the file is .* and an object is needed"),
        ("xflickrco", "xflickrco.json", {"images": [FLICKR[0]]}, "no key 'captions'; it has images"),
        ("xflickrco", "xflickrco.json", {"images": ["a", "a"], "captions": {}}, "2 names, 1 of them distinct"),
        ("xflickrco", "xflickrco.json", {"images": ["a"], "captions": {"de": [["x"], ["y"]]}}, "2 for 1 pictures"),
        ("mscoco", "dataset_coco.json", {"images": 3}, "'images' is 3, and a list is needed"),
        ("mscoco", "dataset_coco.json", {"images": []}, "no key 'annotations'"),
        ("babel-imagenet", "babel/babel_imagenet.json", {"DE": [[0, 1], ["a"]]}, "'DE' does not hold"),
        ("babel-imagenet", "babel/babel_imagenet.json", {"DE": [[1000], ["a"]]}, "classes 0 to 999"),
        ("babel-imagenet", "babel/babel_imagenet.json", {"DE": [[10**30], ["a"]]}, "does not hold"),
        ("imagenet1k", "names/en_classnames.json", {"imagenet1k": ["one", "two", "three"]}, "names 3 classes in en"),
        ("imagenet1k", "names/en_classnames.json", {"imagenet1k": [1, 2]}, "name 0 is value is not text"),
        ("imagenet1k", "names/en_classnames.json", {"imagenet1k": "x"}, "'imagenet1k' is .* a list is needed"),
    ],
)
def test_json_of_another_shape_is_an_error_that_says_what_is_needed(name, file, content, message, tmp_path):
    spec = made(name, tmp_path)
    write_json(tmp_path / name / file, content)
    with pytest.raises(BabelclipError, match=message) as caught:
        open_benchmark(spec)
    assert "take the" in str(caught.value)


def cut_tar(root: Path) -> None:
    path = root / "test/1.tar"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "test/1.tar").unlink(), r"1 of these shards are missing .*1\.tar"),
        (lambda root: (root / "test/nshards.txt").write_text("9" * 9), r"999999997 of these shards .*2\.tar, 3\.tar"),
        (lambda root: (root / "test/nshards.txt").write_text("9" * 9000), "the number is none"),
        (lambda root: (root / "test/nshards.txt").write_text("two"), "says 'two'"),
        (lambda root: (root / "dataset_type.txt").write_text("guesses"), "says 'guesses'.*retrieval, multilabel"),
    ],
)
def test_a_webdataset_folder_that_contradicts_itself_is_an_error(change, message, tmp_path):
    spec = made("wds", tmp_path)
    change(tmp_path / "wds")
    with pytest.raises(BabelclipError, match=message):
        open_benchmark(spec)


def test_a_tar_that_breaks_off_gives_what_lies_before(tmp_path):
    spec = made("wds", tmp_path)
    cut_tar(tmp_path / "wds")
    found = open_benchmark(spec)
    assert found.captions.texts == ["a dog", "a red dog"]
    assert any("breaks off" in note or "without captions" in note for note in found.notes), found.notes
    with pytest.raises(BabelclipError, match="With strict"):
        open_benchmark(spec, strict=True)


def test_labels_that_are_none_are_counted(tmp_path):
    from tests.evaluate.benchmarks.layouts import lines, picture_bytes

    lines(tmp_path / "classnames.txt", "plane", "car")
    (tmp_path / "test").mkdir()
    labels = [b"1", b"one", b"-1"]
    members = [m for n, label in enumerate(labels) for m in ((f"{n}.png", picture_bytes()), (f"{n}.cls", label))]
    write_tar(tmp_path / "test/0.tar", [*members, ("9.png", picture_bytes())])
    found = open_benchmark(f"wds={tmp_path}")
    assert found.labels.tolist() == [1]
    assert "3 left out: label that is no class" in " ".join(found.notes)
    (tmp_path / "classnames.txt").write_text("plane\n")
    with pytest.raises(BabelclipError, match="names 1 classes in en for 2"):
        open_benchmark(f"wds={tmp_path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "which is not read|not a whole pickle"),
        (b"\x80\x02}q\x00.", "no `data`"),
        (b"not a pickle", "not a whole pickle"),
        (b"", "not a whole pickle"),
    ],
    ids=["runs a program", "empty dictionary", "text", "empty"],
)
def test_a_pickle_that_is_no_cifar_is_refused_and_not_run(content, message, tmp_path):
    spec = made("cifar100", tmp_path)
    (tmp_path / "cifar100/test").write_bytes(content)
    with pytest.raises(BabelclipError, match=message):
        open_benchmark(spec)


def test_a_binary_cifar_that_breaks_off_is_an_error(tmp_path):
    spec = made("cifar10", tmp_path)
    path = tmp_path / "cifar10/cifar-10-batches-bin/test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BabelclipError, match="no multiple of 3073"):
        open_benchmark(spec)
    with pytest.raises(BabelclipError, match="no split 'val'"):
        open_benchmark(spec, split="val")


def test_folders_that_are_no_classes_of_imagenet_are_an_error(tmp_path):
    spec = made("imagenet1k", tmp_path)
    (tmp_path / "imagenet1k/set/dogs").mkdir()
    with pytest.raises(BabelclipError, match="no class of ImageNet, first 'dogs'"):
        open_benchmark(spec)


def test_scores_that_are_no_numbers_and_short_rows_are_counted(tmp_path):
    spec = made("stsb", tmp_path)
    path = tmp_path / "stsb/sts-test.csv"
    path.write_text(path.read_text() + "a\tb\tc\td\tnan\tx\ty\na\tb\tc\td\t\tx\ty\nshort\trow\n")
    found = open_benchmark(spec)
    told = " ".join(found.notes)
    assert "1 left out: pair whose score is no number" in told
    assert "1 left out: pair without a score" in told
    assert "1 left out: line without two sentences" in told
    assert np.isfinite(found.subsets["stsb"].gold).all()
