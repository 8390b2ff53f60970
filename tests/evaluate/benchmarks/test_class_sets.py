"""Classified pictures: order of the classes, names and templates by language, forms of one set."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks import open_benchmark
from babelclip.evaluate.benchmarks.class_folders import wnids
from tests.data.layouts import write_tar
from tests.evaluate.benchmarks.layouts import cifar_pixels, lines, made, picture_bytes, pictures, write_json


def test_the_thousand_ids_are_distinct_and_sorted():
    assert len(set(wnids())) == 1000
    assert list(wnids()) == sorted(wnids())
    assert (wnids()[0], wnids()[-1]) == ("n01440764", "n15075141")


def test_a_variant_takes_the_names_of_its_classes_out_of_the_thousand(tmp_path):
    found = open_benchmark(made("imagenet-a", tmp_path))
    assert found.classes == ("n01443537", "n15075141")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.classnames == {"en": ["name 1", "name 999"], "ja": ["名 1", "名 999"]}
    assert found.templates == {"en": ["a photo of a {c}.", "a {c}"], "ja": ["{c}の写真"]}
    assert "ja: 1 of 2 templates have no place for the name" in found.notes
    assert found.sources["classnames"]["ja"].endswith("jp_classnames.json")
    only = open_benchmark(made("imagenet-a", tmp_path), languages=["jpn"])
    assert only.languages == ("ja",)
    with pytest.raises(BabelclipError, match="in sv"):
        open_benchmark(made("imagenet-a", tmp_path), languages=["sv"])


def test_folders_called_by_numbers_are_in_the_order_of_the_numbers(tmp_path):
    found = open_benchmark(made("imagenetv2", tmp_path))
    assert [wnids().index(wnid) for wnid in found.classes] == [1, 2, 10]
    assert found.classnames["en"] == ["name 1", "name 2", "name 10"]
    assert found.labels.tolist() == [0, 1, 1, 2]
    elevater = open_benchmark(made("class-folders", tmp_path))
    assert elevater.labels.tolist() == [0, 0, 2, 10]
    assert (len(elevater.classes), elevater.classnames["zh"][10]) == (11, "名 10")
    assert open_benchmark(made("class-folders", tmp_path), split="train").labels.tolist() == [2]


def test_folders_name_the_classes_where_no_file_does(tmp_path):
    pictures(tmp_path, "sea_lake/a.jpg", "forest/a.jpg")
    found = open_benchmark(f"class-folders={tmp_path},name=eurosat")
    assert (found.name, found.classnames) == ("eurosat", {"en": ["forest", "sea lake"]})
    assert found.templates == {"en": ["a photo of a {}."]}
    names = tmp_path.parent / f"{tmp_path.name}-names"
    write_json(names / "sv_classnames.json", {"eurosat": ["skog", "sjö"], "other": ["x"]})
    write_json(names / "sv_zeroshot_classification_templates.json", {"imagenet1k": ["ett foto av {c}"]})
    translated = open_benchmark(f"class-folders={tmp_path},name=eurosat,names={names}")
    assert translated.classnames == {"en": ["forest", "sea lake"], "sv": ["skog", "sjö"]}
    assert translated.templates["sv"] == ["ett foto av {c}"]
    assert open_benchmark(f"class-folders={tmp_path}").name == "class-folders"


def test_prompts_by_class_are_templates_too(tmp_path):
    pictures(tmp_path / "set", "dog/a.jpg", "cat/a.jpg")
    write_json(tmp_path / "cupl.json", {"dog": ["It barks.", "It wags."], "cat": ["It purrs."]})
    spec = f"class-folders={tmp_path / 'set'},templates={tmp_path / 'cupl.json'}"
    assert open_benchmark(spec).templates["en"] == {"cat": ["It purrs."], "dog": ["It barks.", "It wags."]}
    write_json(tmp_path / "cupl.json", {"dog": ["It barks."]})
    with pytest.raises(BabelclipError, match="no prompts for 1 of 2 classes, first 'cat'"):
        open_benchmark(spec)
    with pytest.raises(BabelclipError, match="does not exist"):
        open_benchmark(f"class-folders={tmp_path / 'set'},templates={tmp_path / 'absent.json'}")


def test_babel_imagenet_has_classes_of_its_own_in_each_language(tmp_path):
    spec = made("babel-imagenet", tmp_path)
    found = open_benchmark(spec)
    assert found.labels.tolist() == [0, 1, 999]
    assert len(found.classes) == 1000
    assert {lang: places.tolist() for lang, places in found.class_indices.items()} == {
        "de": [0, 999],
        "gsw": [0],  # ALS is Alemannic here; in FLORES it is Albanian
        "sq": [999],
    }
    assert found.classnames["de"] == ["Schleie", "Klopapier"]
    assert found.templates == {"de": ["ein Foto von {}"], "gsw": ["{}"], "sq": ["{}"]}
    assert found.sources["templates"]["sq"] == "label alone"
    assert any("1 languages without a known code were left out: XMF" in note for note in found.notes)
    alone = open_benchmark(spec.replace("babel-imagenet=", "babel-imagenet-label=", 1), languages=["de"])
    assert (alone.name, alone.templates) == ("babel-imagenet-label", {"de": ["{}"]})


def cifar10_pickle(folder, protocol: int) -> str:
    folder.mkdir()
    batch = {"data": cifar_pixels(), "labels": [1, 0], "filenames": ["a", "b"]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}, protocol=protocol))
    return f"cifar10={folder}"


def cifar_folders(folder) -> str:
    pictures(folder, "test/automobile/0.png", "test/airplane/0.png")
    return f"cifar10={folder}"


def test_cifar_in_every_form_is_the_same_set(tmp_path):
    binary = open_benchmark(made("cifar10", tmp_path))
    forms = [open_benchmark(cifar10_pickle(tmp_path / f"python{protocol}", protocol)) for protocol in (2, 4)]
    for found in (binary, *forms):
        assert found.labels.tolist() == [1, 0]
        assert found.classnames == {"en": ["airplane", "automobile"]}
        assert np.array_equal(np.asarray(found.pictures.open(1)), np.full((32, 32, 3), (4, 5, 6), np.uint8))
    assert len({found.pictures.content_key(0) for found in (binary, *forms)}) == 1
    folders = open_benchmark(cifar_folders(tmp_path / "folders"))
    assert (folders.classes, folders.labels.tolist()) == (("airplane", "automobile"), [0, 1])
    hundred = open_benchmark(made("cifar100", tmp_path))
    assert (hundred.classes, hundred.labels.tolist()) == (("apple", "aquarium_fish"), [1, 0])
    assert hundred.classnames == {"en": ["apple", "aquarium fish"]}


def test_cifar100_binary_counts_the_fine_labels(tmp_path):
    rows = np.concatenate([np.array([[7, 1], [9, 0]], np.uint8), cifar_pixels()], axis=1)
    (tmp_path / "test.bin").write_bytes(rows.tobytes())
    with pytest.raises(BabelclipError, match=r"fine_label_names\.txt"):
        open_benchmark(f"cifar100={tmp_path}")
    lines(tmp_path / "fine_label_names.txt", "apple", "aquarium_fish")
    assert open_benchmark(f"cifar100={tmp_path}").labels.tolist() == [1, 0]
    with pytest.raises(BabelclipError, match=r"train\.bin|test_batch|no "):
        open_benchmark(f"cifar100={tmp_path}", split="train")


def test_webdataset_folders_hold_one_class_or_several(tmp_path):
    for name, labels in (("one", [("cls", b"1"), ("cls", b"0\n")]), ("several", [([1, 0, 1]), ([0, 0, 0])])):
        root = tmp_path / name
        lines(root / "classnames.txt", "plane", "car", "bird")
        lines(root / "zeroshot_classification_templates.txt", "a photo of a {c}.")
        (root / "test").mkdir()
        members = []
        for number, label in enumerate(labels):
            ending, content = label if name == "one" else ("npy", npy(label))
            members += [(f"s{number}.webp", picture_bytes(kind="WEBP")), (f"s{number}.{ending}", content)]
        write_tar(root / "test/0.tar", members)
    one, several = (open_benchmark(f"wds={tmp_path / name}") for name in ("one", "several"))
    assert one.labels.tolist() == [1, 0]
    assert several.multi_label
    assert several.labels.tolist() == [[True, False, True], [False, False, False]]
    assert several.classnames == {"en": ["plane", "car", "bird"]}
    assert several.templates == {"en": ["a photo of a {c}."]}
    write_json(tmp_path / "names/sv_classnames.json", {"transport": ["flygplan", "bil", "fågel"]})
    translated = open_benchmark(f"wds={tmp_path / 'one'},name=transport,names={tmp_path / 'names'}")
    assert translated.classnames == {"sv": ["flygplan", "bil", "fågel"], "en": ["plane", "car", "bird"]}
    lines(tmp_path / "one/dataset_type.txt", "multilabel")
    with pytest.raises(BabelclipError, match="no labelled pictures"):
        open_benchmark(f"wds={tmp_path / 'one'}")


def npy(values: list[int]) -> bytes:
    packed = io.BytesIO()
    np.save(packed, np.array(values))
    return packed.getvalue()
