from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.train.class_batches import check_classes
from babelclip.train.class_inputs import hold_out, prompts_of, read_class_folder
from tests.conftest import COLOURS, draw_shape


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of each of three colours, and a hidden folder."""
    for colour in ("blue", "green", "red"):
        (tmp_path / "train" / colour).mkdir(parents=True)
        for number in range(10):
            draw_shape(colour, "circle", 20 + number).save(tmp_path / "train" / colour / f"{number}.png")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path / "train"


def test_classes_are_folders_in_the_order_of_their_names(folder: Path):
    given = read_class_folder(folder)
    assert given.classes == ("blue", "green", "red")
    assert len(given) == 30
    assert all(path.parent.name == given.classes[label] for path, label in zip(given.paths, given.labels, strict=True))


def test_a_folder_that_is_not_there_or_has_no_classes_is_an_error(folder: Path, tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"classify\.pictures = .*nowhere.* is no folder\. Give a folder"):
        read_class_folder(tmp_path / "nowhere")
    with pytest.raises(BabelclipError, match="holds 0 class folders, and at least 2 are needed"):
        read_class_folder(folder / "red")


def test_a_class_without_pictures_is_an_error(folder: Path):
    (folder / "white").mkdir()
    (folder / "white" / "notes.txt").write_text("none yet", encoding="utf-8")
    with pytest.raises(BabelclipError, match=r"Class 'white' of classify\.pictures has no pictures.*remove the folder"):
        read_class_folder(folder)


def test_held_out_folders_must_have_the_same_classes(folder: Path):
    with pytest.raises(
        BabelclipError, match=r"classify\.test = .* lacks the class folders pink; training has 4 classes"
    ):
        read_class_folder(folder, "classify.test", ("blue", "green", "pink", "red"))
    with pytest.raises(BabelclipError, match="has also the class folders red"):
        read_class_folder(folder, "classify.test", ("blue", "green"))


def test_a_share_of_each_class_is_held_out_and_follows_from_the_seed(folder: Path):
    given = read_class_folder(folder)
    rest, held = hold_out(given, 0.2, seed=0)
    assert np.bincount(held.labels).tolist() == [2, 2, 2]
    assert not set(rest.paths) & set(held.paths)
    assert set(rest.paths) | set(held.paths) == set(given.paths)
    assert hold_out(given, 0.2, seed=0)[1].paths == held.paths
    assert hold_out(given, 0.2, seed=1)[1].paths != held.paths
    with pytest.raises(BabelclipError, match=r"Class 'blue' has 10 pictures, of which 10 would be held out"):
        hold_out(given, 0.99, seed=0)


def test_prompts_are_names_in_templates_class_by_class():
    prompts = prompts_of(["fire_truck", "cat"], "EN", {"cat": "kitten"}, ["{}", "a photo of a {c}."])
    assert prompts.lang == "en"
    assert prompts.texts == ["fire truck", "a photo of a fire truck.", "kitten", "a photo of a kitten."]
    assert prompts_of(["cat", "dog"], "sv", {"cat": "katt", "dog": "hund"}, [], second=True).texts == ["katt", "hund"]


@pytest.mark.parametrize(
    ("arguments", "second", "message"),
    [
        (("xx-nonsense", {}, []), False, "xx-nonsense"),
        (
            ("en", {"dgo": "dog"}, []),
            False,
            r"classify\.names names 'dgo', which is no class folder\. Did you mean 'dog'",
        ),
        (("sv", {"cat": "katt"}, []), True, r"classify\.second_names has no name in Swedish for dog: write"),
        (("en", {"cat": "Dog"}, []), False, "Classes 'cat' and 'dog' have one name, 'dog'"),
        (("en", {"cat": "  "}, []), False, "no name in English for cat"),
        (("en", {}, ["a photo"]), False, "'a photo' has no place for the class name"),
    ],
)
def test_names_that_do_not_fit_the_classes_are_errors(arguments: tuple, second: bool, message: str):
    with pytest.raises(BabelclipError, match=message):
        prompts_of(["cat", "dog"], *arguments, second=second)


def test_batches_with_few_distinct_texts_are_refused():
    one = [np.asarray([0, 1, 2]), np.asarray([4, 4, 4])]
    with pytest.raises(
        BabelclipError, match=r"3 pictures holds 1 class.*at least 2.*classify\.loss = \"class_vectors\""
    ):
        check_classes(one, "multi_positive", 5)
    rare = [np.asarray([0] * 15 + [number]) for number in range(1, 10)]
    with pytest.raises(BabelclipError, match=r"16 pictures holds 2\.0 of 10 classes on average.*Give as many pictures"):
        check_classes(rare, "sigmoid", 10)
    check_classes(rare, "class_vectors", 10)
    check_classes([np.arange(10)], "multi_positive", 10)


def test_the_diagonal_loss_is_refused_where_two_pictures_of_a_class_meet():
    with pytest.raises(
        BabelclipError, match=r"1 of 2 batches hold two pictures of one class.*loss = \"multi_positive\""
    ):
        check_classes([np.asarray([0, 1, 2]), np.asarray([1, 2, 1])], "diagonal", len(COLOURS))
    check_classes([np.asarray([0, 1, 2])], "diagonal", 3)
