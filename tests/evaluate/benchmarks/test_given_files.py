"""What the user names counts before what lies beside it, files under every name in which they are published are found,
and nothing is taken for what it is not."""

from __future__ import annotations

import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks import open_benchmark
from tests.data.layouts import write_tar
from tests.evaluate.benchmarks.layouts import (
    COCO,
    FLICKR,
    babel_imagenet,
    coco_cn,
    flickr30k,
    jsonl,
    lines,
    made,
    multi30k,
    picture_bytes,
    pictures,
    sts17,
    write_json,
)


def rows(found) -> list[tuple[str, str]]:
    return [(row["image"], row["text"]) for row in found.captions.table.to_pylist()]


def test_a_list_that_was_given_is_read_although_a_json_file_lies_beside_it(tmp_path):
    flickr30k(tmp_path)
    write_json(tmp_path / "dataset_flickr30k.json", {"images": []})
    assert len(open_benchmark(f"flickr30k={tmp_path / 'flickr30k_test_karpathy.txt'}").captions) == 3


def test_captions_that_were_given_are_not_taken_for_the_list_of_pictures(tmp_path):
    coco_cn(tmp_path)
    whole = open_benchmark(f"coco-cn={tmp_path}")
    assert rows(open_benchmark(f"coco-cn={tmp_path / 'imageid.human-written-caption.txt'}")) == rows(whole)


def test_chinese_clip_needs_its_texts_and_says_so(tmp_path):
    spec = made("chinese-clip", tmp_path)
    with pytest.raises(BabelclipError, match=r"SPLIT_texts\.jsonl"):
        open_benchmark(f"{spec}/test_imgs.tsv")


def test_captions_of_flickr8k_in_chinese_are_those_of_the_split(tmp_path):
    pictures(tmp_path / "Images", *FLICKR)
    lines(tmp_path / "flickr8kzhc.caption.txt", *(f"{name}#zhc#0 一个" for name in (*FLICKR, "train.jpg")))
    lines(tmp_path / "Flickr_8k.testImages.txt", *FLICKR)
    assert rows(open_benchmark(f"flickr8k-cn={tmp_path}")) == [(name, "一个") for name in FLICKR]


def test_a_file_that_lies_there_packed_and_unpacked_counts_once(tmp_path):
    multi30k(tmp_path)
    lines(tmp_path / "data/task1/raw/test_2016_flickr.en.gz", "en one", "en two")
    assert len(open_benchmark(f"multi30k={tmp_path}", languages=["en"]).captions) == 2


def test_the_line_of_kaggle_that_lacks_a_stroke_is_read(tmp_path):
    pictures(tmp_path, *FLICKR)
    kaggle = (f"{FLICKR[0]}| 0| A man .", f"{FLICKR[1]}| 4   A dog runs .")
    lines(tmp_path / "results.csv", "image_name| comment_number| comment", *kaggle)
    found = open_benchmark(f"flickr30k={tmp_path}", split="all", strict=True)
    assert rows(found) == [(FLICKR[0], "A man ."), (FLICKR[1], "A dog runs .")]


@pytest.mark.parametrize(("name", "file"), [("mscoco", "coco_karpathy_val.json"), ("flickr30k", "flickr30k_val.json")])
def test_blips_files_are_found_by_their_names_which_tell_the_split(name, file, tmp_path):
    pictures(tmp_path / "images", COCO[0])
    write_json(tmp_path / file, [{"image": f"images/{COCO[0]}", "caption": ["a dog", "a red dog"]}])
    for found in (open_benchmark(f"{name}={tmp_path}", split="val"), open_benchmark(f"{name}={tmp_path / file}")):
        assert (found.split, len(found.captions)) == ("val", 2)


def test_ids_and_addresses_that_are_none_cost_their_rows_and_nothing_else(tmp_path):
    pictures(tmp_path, "a.jpg", "1.jpg")
    images = [{"id": [1], "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    annotations = [{"image_id": [1], "caption": "x"}, {"image_id": 2, "caption": "a dog"}]
    write_json(tmp_path / "captions.json", {"images": images, "annotations": annotations})
    assert rows(open_benchmark(f"mscoco={tmp_path}")) == [("a.jpg", "a dog")]
    jsonl(tmp_path / "test_sv.jsonl", {"image_url": "http://[x/y.jpg", "image_idx": 1, "caption": "hej"})
    assert rows(open_benchmark(f"wit={tmp_path}")) == [("1", "hej")]


def test_shards_that_count_anew_hold_pictures_of_their_own(tmp_path):
    (tmp_path / "test").mkdir()
    for shard, (colour, text) in enumerate((("red", b"a dog"), ("blue", b"a cat"))):
        members = [("000.png", picture_bytes(colour, "PNG")), ("000.txt", text)]
        write_tar(tmp_path / f"test/{shard}.tar", members)
    found = open_benchmark(f"wds={tmp_path}")
    assert rows(found) == [("000", "a dog"), ("1/000", "a cat")]
    assert [found.pictures.open(place).getpixel((0, 0)) for place in (0, 1)] == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize("split", ["/x", "../x", "*", "t[e]st"])
def test_a_split_is_a_name_and_no_path_or_pattern(split, tmp_path):
    with pytest.raises(BabelclipError, match=r"no name of a split\. Ask for one of test, val, train"):
        open_benchmark(made("flickr8k-cn", tmp_path), split=split)


def test_templates_are_not_taken_for_names_of_classes(tmp_path):
    pictures(tmp_path, "cat/a.jpg", "dog/a.jpg")
    lines(tmp_path / "zeroshot_classification_templates.txt", "a photo of a {c}.", "a {c}")
    found = open_benchmark(f"class-folders={tmp_path}")
    assert found.classnames == {"en": ["cat", "dog"]}
    assert found.templates == {"en": ["a photo of a {c}.", "a {c}"]}


def test_a_class_may_be_called_like_a_split_and_hidden_files_are_no_pictures(tmp_path):
    pictures(tmp_path, "plane/a.jpg", "train/a.jpg", "train/._a.jpg")
    found = open_benchmark(f"class-folders={tmp_path}")
    assert (found.classes, found.pictures.ids) == (("plane", "train"), ("plane/a.jpg", "train/a.jpg"))


def test_names_of_a_file_that_does_not_tell_its_language_are_an_error(tmp_path):
    pictures(tmp_path / "set", "cat/a.jpg", "dog/a.jpg")
    lines(tmp_path / "mine.txt", "katt", "hund")
    with pytest.raises(BabelclipError, match=r"does not tell its language.*LANG_classnames\.json"):
        open_benchmark(f"class-folders={tmp_path / 'set'},names={tmp_path / 'mine.txt'}")


def test_templates_are_of_one_language_which_must_be_plain(tmp_path):
    pictures(tmp_path / "set", "cat/a.jpg", "dog/a.jpg")
    for code, names in (("sv", ["katt", "hund"]), ("de", ["Katze", "Hund"])):
        write_json(tmp_path / f"names/{code}_classnames.json", {"class-folders": names})
    write_json(tmp_path / "mine.json", ["ett foto av {}"])
    spec = f"class-folders={tmp_path / 'set'},names={tmp_path / 'names'},templates={tmp_path / 'mine.json'}"
    assert open_benchmark(spec, languages=["sv"]).templates == {"sv": ["ett foto av {}"]}
    with pytest.raises(BabelclipError, match=r"class names are in de, sv\. Ask for one of these"):
        open_benchmark(spec, languages=["sv", "de"])


def test_templates_of_another_set_are_none_of_this_one(tmp_path):
    pictures(tmp_path / "set", "cat/a.jpg", "dog/a.jpg")
    write_json(tmp_path / "names/sv_classnames.json", {"eurosat": ["katt", "hund"]})
    write_json(tmp_path / "names/sv_zeroshot_classification_templates.json", {"cifar10": ["ett foto av {c}"]})
    found = open_benchmark(
        f"class-folders={tmp_path / 'set'},names={tmp_path / 'names'},name=eurosat", languages=["sv"]
    )
    assert (found.templates, found.sources["templates"]) == ({"sv": ["{}"]}, {"sv": "none found"})


def test_prompts_of_babel_imagenet_lie_beside_its_names_and_ones_that_are_given_count_first(tmp_path):
    babel_imagenet(tmp_path)
    beside = f"babel-imagenet={tmp_path / 'imagenet'},names={tmp_path / 'babel/babel_imagenet.json'}"
    assert open_benchmark(beside, languages=["de"]).templates == {"de": ["ein Foto von {}"]}
    write_json(tmp_path / "mine.json", {"DE": ["mein {}"]})
    assert open_benchmark(f"{beside},templates={tmp_path / 'mine.json'}", languages=["de"]).templates["de"] == [
        "mein {}"
    ]


def test_sts17_leaves_out_english_pairs_where_english_was_not_asked_for(tmp_path):
    sts17(tmp_path)
    lines(tmp_path / "eval/STS.input.track5.en-en.txt", "a dog\ta cat", "one\ttwo")
    lines(tmp_path / "gs/STS.gs.track5.en-en.txt", "1", "2")
    assert set(open_benchmark(f"sts17={tmp_path}", languages=["ar"]).subsets) == {"track1.ar-ar"}
    assert set(open_benchmark(f"sts17={tmp_path}", languages=["en"]).subsets) == {"track5.en-en"}
