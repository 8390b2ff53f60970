"""The whole path of the demo with tiny models: every step is the real one, only the parts are small."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import babelclip
import babelclip.languages
from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.evaluate.report import read_results
from babelclip.evaluate.result import check_result
from babelclip.starter import demo, results
from babelclip.starter.gallery import QUERIES, is_right
from babelclip.starter.measure import PictureSet
from babelclip.starter.words import Corpus
from babelclip.store import EmbeddingStore
from babelclip.train.recipe import apply_overrides
from tests.conftest import COLOURS, draw_shape, make_clip, make_text_encoder

WORDS = {
    "en": {"red": "red", "green": "green", "blue": "blue", "yellow": "yellow", "circle": "circle", "square": "square"},
    "sv": {"red": "röd", "green": "grön", "blue": "blå", "yellow": "gul", "circle": "cirkel", "square": "fyrkant"},
    "ar": {"red": "أحمر", "green": "أخضر", "blue": "أزرق", "yellow": "أصفر", "circle": "دائرة", "square": "مربع"},
}


def captions_of(
    folder: Path, languages: tuple[str, ...], *, name: str = "{colour} {shape}", prefix: str = ""
) -> Captions:
    rows = []
    for colour in COLOURS:
        for shape in ("circle", "square"):
            path = folder / f"{colour}-{shape}.png"
            draw_shape(colour, shape).save(path)
            for lang in languages:
                words = WORDS[lang]
                text = name.format(colour=words[colour], shape=words[shape])
                rows.append((f"{prefix}{colour}-{shape}:{lang}", text, lang, str(path), f"{colour} {shape}"))
    ids, texts, langs, images, labels = (list(column) for column in zip(*rows, strict=True))
    sources = [None if lang == "en" else f"{one.split(':')[0]}:en" for one, lang in zip(ids, langs, strict=True)]
    return Captions.from_columns(text=texts, lang=langs, id=ids, source_id=sources, image=images, label=labels)


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    training = captions_of(folder, ("en", "sv"), name="the {colour} {shape}")
    corpus = Corpus(
        captions=training,
        weights=np.ones(len(training)),
        counts={"shapes": {"en": 8, "sv": 8}},
        removed=3,
        missing=("a dictionary",),
    )
    shown = captions_of(folder, ("en", "sv", "ar"))
    shown = dataclasses.replace(shown, skipped={"picture that does not decode": 2})
    shapes = PictureSet("photos", "Shapes", "Drawn by the test.", shown)
    return demo.Parts(
        teacher=make_clip(),
        student=make_text_encoder(seed=9),
        corpus=corpus,
        validation=captions_of(folder, ("en", "sv"), name="one {colour} {shape}", prefix="held-out-"),
        sets=(shapes,),
        missing=("the moon: too far",),
        attribution=("Shapes: this test",),
    )


@pytest.fixture
def recipe():
    small = ["train.steps=30", "train.validate_every=10", "train.save_every=10", "train.batch_size=8"]
    return apply_overrides(
        demo.recipe_for(0), [*small, "train.lr=5e-3", "train.head_lr=5e-3", "student.trainable=last 2 layers"]
    )


def run(out, parts, recipe):
    said = []
    report = demo.run_demo(out, parts=parts, recipe=recipe, least=5, say=said.append, progress=False)
    return report, said


def test_what_training_needs_is_looked_for_before_anything_is_written(tmp_path, parts, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"babelclip\[train\]"):
        run(tmp_path / "demo", parts, recipe)
    assert not (tmp_path / "demo").exists()


def test_the_demo_teaches_measures_saves_and_shows(tmp_path, parts, recipe):
    report, said = run(tmp_path / "demo", parts, recipe)
    rows = {row["kind"]: row for row in report["tables"][0]["rows"]}
    assert list(rows) == ["teacher", "foreign", "before", "ridge", "after"]
    assert list(rows["teacher"]["t2i"]) == ["en"]
    assert sorted(rows["foreign"]["t2i"]) == ["ar", "sv"]
    assert sorted(rows["after"]["t2i"]) == ["ar", "en", "sv"]
    assert report["languages"]["ar"] == {"name": "Arabic", "native": "العربية", "rtl": True, "taught": False}
    assert report["languages"]["sv"]["taught"]
    # The taught student is nearer to the teacher than the mean of the targets is.
    training = report["training"]
    assert training["curve"][-1]["mse"] < training["trivial_mse"]
    assert training["curve"][-1]["loss"] < training["curve"][0]["loss"]
    assert any("left out: the moon" in line for line in said)
    assert "babelclip search" in "\n".join(said)


def test_every_figure_is_in_the_results_with_all_its_fields(tmp_path, parts, recipe):
    report, _ = run(tmp_path / "demo", parts, recipe)
    stored = read_results(tmp_path / "demo" / "results.json")
    for result in stored:
        check_result(result)
    assert len(stored) == 2 * (1 + 2 + 3 + 3 + 3)
    table = report["tables"][0]
    for row in table["rows"]:
        for direction in ("t2i", "i2t"):
            for lang, figures in row[direction].items():
                found = [
                    r for r in stored
                    if (r["model"], r["direction"], r["language"]) == (row["name"], direction, lang)
                ]  # fmt: skip
                assert len(found) == 1
                assert found[0]["metrics"]["R@10"] == figures["R@10"]
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["summary"]["E"] == report["summary"]["E"]


def test_the_saved_student_loads_and_gives_what_was_measured(tmp_path, parts, recipe):
    report, _ = run(tmp_path / "demo", parts, recipe)
    clip = babelclip.load(tmp_path / "demo" / "student")
    assert (clip.space, clip.languages, clip.attribution) == ("test/tiny", ("en", "sv"), ("Shapes: this test",))
    captions = parts.sets[0].captions.select("sv")
    scores = clip.encode_text(captions.texts) @ clip.encode_image(parts.sets[0].images).T
    right = [parts.sets[0].images.index(image) for image in captions.table["image"].to_pylist()]
    found = np.mean([right[row] in np.argsort(-scores[row])[:1] for row in range(len(scores))])
    assert found == pytest.approx(report["tables"][0]["rows"][-1]["t2i"]["sv"]["R@1"], abs=1e-9)


def test_the_targets_are_the_teachers_vectors_of_the_english_texts(tmp_path, parts, recipe):
    run(tmp_path / "demo", parts, recipe)
    store = EmbeddingStore.open(tmp_path / "demo" / "targets")
    english = Captions.concat([parts.corpus.captions, parts.validation]).select("en")
    assert sorted(store.ids) == sorted(english.ids)
    expected = parts.teacher.encode_text(english.texts, normalize=False)
    np.testing.assert_allclose(store.gather(store.positions(english.ids)), expected, atol=1e-6)


def test_a_demo_that_runs_again_trains_nothing_anew_and_finds_the_same(tmp_path, parts, recipe):
    first, _ = run(tmp_path / "demo", parts, recipe)
    log = (tmp_path / "demo" / "training" / "log.jsonl").read_text()
    fresh = demo.dataclasses.replace(parts, student=make_text_encoder(seed=9))
    second, _ = run(tmp_path / "demo", fresh, recipe)
    assert (tmp_path / "demo" / "training" / "log.jsonl").read_text() == log
    assert second["tables"] == first["tables"]


def test_the_page_and_the_tables_are_written(tmp_path, parts, recipe):
    run(tmp_path / "demo", parts, recipe)
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("data:image/") >= len(QUERIES)
    text = (tmp_path / "demo" / "report.md").read_text(encoding="utf-8")
    assert "student after teaching" in text
    assert "3 texts equal to a test caption were removed" in text
    assert "Shapes: 2 left out, picture that does not decode" in text
    assert "Shapes: 2 left out, picture that does not decode" in page


def test_a_model_that_changed_on_disk_is_noticed(tmp_path, parts):
    texts = ["red circle", "röd cirkel"]
    features = parts.teacher.encode_text(texts)
    results.check_loaded(parts.teacher, texts, 3 * features)
    with pytest.raises(BabelclipError, match="other vectors"):
        results.check_loaded(parts.teacher, texts, features[::-1])


def test_hits_are_judged_by_whole_words():
    bird = next(query for query in QUERIES if query.lang == "ar")
    flowers = next(query for query in QUERIES if query.lang == "sv")
    assert is_right(bird, "An Adelaide Rosella.")
    assert is_right(bird, "Two BLACKBIRDS in the grass")
    assert is_right(flowers, "A rose.")
    assert not is_right(flowers, "An Adelaide Rosella.")
    assert not is_right(bird, "A crowned king.")


def test_the_gallery_speaks_many_languages_and_scripts():
    scripts = {babelclip.languages.script(query.lang) for query in QUERIES}
    assert len({query.lang for query in QUERIES}) >= 12
    assert len(scripts) >= 8


def test_the_head_of_the_untaught_student_is_random_and_repeats(parts):
    matrix, bias = demo.random_head(parts.student, 0)
    again, _ = demo.random_head(parts.student, 0)
    np.testing.assert_array_equal(matrix, again)
    assert matrix.shape == (16, 32)
    assert not bias.any()
    assert math.isclose(float(matrix.std()), 1.0, rel_tol=0.1)
