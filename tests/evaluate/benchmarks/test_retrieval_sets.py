"""What the readers of captions make of their files, in each of the forms in which a set circulates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks import open_benchmark
from babelclip.models.preprocess import open_picture
from tests.evaluate.benchmarks.layouts import COCO, FLICKR, MARK, jsonl, lines, made, pictures, write_json
from tests.evaluate.benchmarks.test_opening import texts_by_language


def test_xtd10_in_one_folder_and_from_babel_imagenet_is_the_same_set(tmp_path):
    clean = texts_by_language(open_benchmark(made("xtd10", tmp_path)))
    root = tmp_path / "xtd10"
    flat, images = tmp_path / "flat", tmp_path / "xtd10/val2014"
    flat.mkdir()
    for path in root.rglob("*.txt"):
        shutil.copy(path, flat)
    assert texts_by_language(open_benchmark(f"xtd10={flat},images={images}")) == clean
    captions = {code: [[f"{code} one"], [f"{code} {MARK}"]] for code in ("en", "ko", "de", "jp")}
    write_json(tmp_path / "json/xtd.json", {"images": list(COCO), "captions": captions})
    for spec in (f"xtd10={tmp_path / 'json'}", f"xtd10={tmp_path / 'json/xtd.json'}"):
        assert texts_by_language(open_benchmark(f"{spec},images={images}")) == clean


def test_every_picture_of_the_index_is_a_candidate_with_or_without_a_caption(tmp_path):
    spec = made("xtd10", tmp_path)
    path = tmp_path / "xtd10/XTD10/test_1kcaptions_ko.txt"
    path.write_bytes(b"\r\nko two")
    found = open_benchmark(spec, languages=["ko"])
    assert texts_by_language(found) == {"ko": [(COCO[1], "ko two")]}
    assert found.pictures.ids == COCO
    assert any("1 left out: empty text" in note for note in found.notes)


def test_xflickrco_of_iglue_is_that_of_babel_imagenet(tmp_path):
    clean = texts_by_language(open_benchmark(made("xflickrco", tmp_path)))
    for code, texts in (("de", ("eins", f"zwei {MARK}")), ("ja", ("一", "二"))):
        rows = [{"sentences": [t], "id": n, "img_path": (FLICKR[0], COCO[0])[n]} for n, t in enumerate(texts)]
        jsonl(tmp_path / f"iglue/annotations/{code}/test.jsonl", *rows)
    found = open_benchmark(f"xflickrco={tmp_path / 'iglue'},images={tmp_path / 'xflickrco/images'}")
    assert texts_by_language(found) == clean


def test_karpathy_coco_and_lists_of_pairs_give_the_same_captions(tmp_path):
    clean = texts_by_language(open_benchmark(made("mscoco", tmp_path)))
    assert [text for _, text in clean["en"]] == ["a dog", "a red dog", f"a cat {MARK}"]
    images = [{"id": n, "file_name": name} for n, name in enumerate(COCO)]
    texts = ((0, "a dog"), (0, "a red dog"), (1, f"a cat {MARK}"))
    annotations = [{"image_id": n, "caption": text} for n, text in texts]
    write_json(tmp_path / "coco/annotations/captions_val2014.json", {"images": images, "annotations": annotations})
    pairs = [
        {"image": f"val2014/{COCO[0]}", "caption": ["a dog", "a red dog"]},
        {"image": COCO[1], "caption": f"a cat {MARK}"},
    ]
    write_json(tmp_path / "blip/coco_test_karpathy.json", pairs)
    for form, split in (("coco", "val2014"), ("blip", "test")):
        found = open_benchmark(f"mscoco={tmp_path / form},images={tmp_path / 'mscoco'}")
        assert found.split == split
        assert [text for _, text in texts_by_language(found)["en"]] == [text for _, text in clean["en"]]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("flickr30k_test_karpathy.txt", ["image,caption", "{0},A man, here.", '{1},"A ""dog"""']),
        ("results.csv", ["image_name| comment_number| comment", "{0}| 0| A man, here.", '{1}| 1| A "dog"']),
        ("results_20130124.token", ["{0}#0\tA man, here.", '{1}#0\tA "dog"']),
    ],
)
def test_lists_of_flickr_in_every_form_are_read_alike(file, content, tmp_path):
    pictures(tmp_path / "images", *FLICKR)
    lines(tmp_path / file, *(line.format(*FLICKR) for line in content))
    if "karpathy" not in file:
        with pytest.raises(BabelclipError, match=r"ask for the split 'all' or add it"):
            open_benchmark(f"flickr30k={tmp_path}")
        lines(tmp_path / "test.txt", *(name.removesuffix(".jpg") for name in FLICKR))
    found = open_benchmark(f"flickr30k={tmp_path}")
    assert texts_by_language(found) == {"en": [(FLICKR[0], "A man, here."), (FLICKR[1], 'A "dog"')]}


def test_flickr_is_read_from_the_json_of_karpathy_too(tmp_path):
    pictures(tmp_path / "images", *FLICKR)
    images = [{"filename": name, "split": "test", "sentences": [{"raw": name[:4]}]} for name in FLICKR]
    write_json(tmp_path / "dataset_flickr30k.json", {"images": images})
    for spec in (f"flickr30k={tmp_path}", f"flickr30k={tmp_path / 'dataset_flickr30k.json'},images={tmp_path}"):
        assert texts_by_language(open_benchmark(spec)) == {"en": [(name, name[:4]) for name in FLICKR]}


def test_coco_cn_keeps_written_and_translated_captions_apart(tmp_path):
    spec = made("coco-cn", tmp_path)
    written = texts_by_language(open_benchmark(spec))["zh"]
    assert [text for _, text in written] == ["一只狗", "红狗", f"猫{MARK}"]
    translated = open_benchmark(spec, protocol="translated")
    assert (translated.name, translated.captions.texts) == ("coco-cn-translated", ["译文"])
    images = [{"id": n, "file_name": name} for n, name in enumerate(COCO)]
    rows = [("cn", "一只 狗 坐着"), ("zhm", "译 文")]
    annotations = [{"image_id": 0, "source": source, "caption": text} for source, text in rows]
    write_json(tmp_path / "nllb/captions.json", {"images": images, "annotations": annotations})
    as_json = f"={tmp_path / 'nllb'},images={tmp_path / 'coco-cn'}"
    assert open_benchmark(f"coco-cn{as_json}").captions.texts == ["一只狗坐着"]
    assert open_benchmark(f"coco-cn-translated{as_json}").captions.texts == ["译文"]


def test_multi30k_lies_in_its_repository_or_in_one_folder(tmp_path):
    clean = texts_by_language(open_benchmark(made("multi30k", tmp_path)))
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*(tmp_path / "multi30k").rglob("*_flickr.*")]:
        shutil.copy(path, flat)
    images = f"images={tmp_path / 'multi30k/flickr30k-images'}"
    assert texts_by_language(open_benchmark(f"multi30k={flat},{images}")) == clean
    lines(flat / "test_2016_flickr.txt", f"{FLICKR[0]}#12", f"{FLICKR[1]}#13")
    assert texts_by_language(open_benchmark(f"multi30k={flat},{images}")) == clean
    task2 = texts_by_language(open_benchmark(made("multi30k-task2", tmp_path)))
    assert [text for image, text in task2["de"] if image == FLICKR[0]] == ["de 1", "de 2"]


def test_pictures_in_base64_are_read_where_they_lie(tmp_path):
    found = open_benchmark(made("chinese-clip", tmp_path))
    colours = [np.asarray(open_picture(source))[0, 0] for source in found.pictures.sources]
    assert colours[0][0] > 200 > 60 > colours[0][2]
    assert colours[1][2] > 200 > 60 > colours[1][0]
    assert texts_by_language(found)["zh"] == [("7", "一"), ("8", "一"), ("8", f"二{MARK}")]
    assert found.text_numbers.tolist() == [0, 0, 1]
    (tmp_path / "chinese-clip/test_imgs.tsv").write_text("7\tno base64\n8\t####\n")
    with pytest.raises(BabelclipError, match="does not decode as a picture"):
        found.pictures.open(0)


def test_pictures_in_tars_are_read_where_they_lie(tmp_path):
    found = open_benchmark(made("wds", tmp_path))
    assert found.pictures.sources[1] == f"{tmp_path / 'wds/test/1.tar'}::s0000001.webp"
    assert texts_by_language(found) == {
        "en": [("s0000000", "a dog"), ("s0000000", "a red dog"), ("s0000001", f"a cat {MARK}")]
    }
    assert any("names no language" in note for note in found.notes)
    swedish = open_benchmark(made("wds", tmp_path / "again"), languages=["sv"])
    assert swedish.languages == ("sv",)
    assert not any("names no language" in note for note in swedish.notes)


def test_own_captions_are_read_from_any_source_of_captions(tmp_path):
    found = open_benchmark(made("captions", tmp_path))
    assert texts_by_language(found) == {"sv": [("a.jpg", "en hund")], "de": [("deep/b.jpg", f"zwei {MARK}")]}
    beside = open_benchmark(made("folder", tmp_path), languages=["de"])
    assert beside.languages == ("de",)
    assert len(beside.captions) == 3
    english = open_benchmark(f"folder={tmp_path / 'folder'}")
    assert english.languages == ("en",)
    assert "texts that name no language count as en" in english.notes
    with pytest.raises(BabelclipError, match="no language"):
        open_benchmark(f"captions={tmp_path / 'folder'}")
    absolute = tmp_path / "absolute.jsonl"
    jsonl(
        absolute, {"image": str(tmp_path / "captions/a.jpg"), "text": "hund", "lang": "sv"}, {"text": "x", "lang": "sv"}
    )
    with_path = open_benchmark(f"captions={absolute}")
    assert Path(with_path.pictures.sources[0]) == tmp_path / "captions/a.jpg"
    assert any("1 left out: " in note for note in with_path.notes)


def test_a_number_of_pictures_other_than_published_is_noted(tmp_path):
    found = open_benchmark(made("xtd10", tmp_path))
    assert "test has 1000 pictures as published and 2 here: figures do not compare" in found.notes
    assert json.dumps(list(found.notes))  # what a result stores
