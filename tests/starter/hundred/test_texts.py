from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from babelclip.data.captions import Captions, read_captions
from babelclip.errors import BabelclipError
from babelclip.starter import debian, sources
from babelclip.starter.debian import Found
from babelclip.starter.hundred import catalogues, cldr, descriptions, gcompris, texts
from babelclip.starter.hundred.texts import SOURCES, count_lines, gather_texts, thinned, with_english, write_texts
from babelclip.starter.sources import Row
from babelclip.starter.tuxpaint import STAMPS
from babelclip.starter.words import build_corpus
from tests.starter.hundred import test_cldr, test_descriptions, test_gcompris, test_gettext


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every source in miniature, kept where a fetched one would be; nothing is installed or fetched."""

    def folder(name: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        return tmp_path / name

    monkeypatch.setattr(cldr, "_LEAST_NAMES", 1)
    monkeypatch.setattr(sources, "read_sources", lambda *_: ({"nouns": [Row("a pear", "en", "a pear")]}, {}))
    for part, root in ((cldr.ANNOTATIONS, "annotations"), (cldr.DERIVED, "annotationsDerived")):
        place = folder(f"npm-{part.archive.removesuffix('.tgz')}")
        test_cldr.write_locale(place, "en", test_cldr.ENGLISH, root)
        test_cldr.write_locale(place, "sv", test_cldr.SWEDISH, root)
    message = {"They attack at dawn.": "De anfaller i gryningen."}
    places = {part: Found(part, None, "absent") for part in (STAMPS, *texts.PACKAGES)}
    for part in (catalogues.WESNOTH[0], catalogues.GIMP):
        test_gettext.write(folder(part.package), "sv", message)
    test_gcompris.write(folder(gcompris.WORDS.package))
    lists = folder("debian-translations")
    (lists / "Translation-en").write_text(test_descriptions.ENGLISH, encoding="utf-8")
    (lists / "Translation-de").write_text(test_descriptions.GERMAN, encoding="utf-8")
    stamps = folder(STAMPS.package)
    for part in (STAMPS, catalogues.WESNOTH[0], catalogues.GIMP, gcompris.WORDS):
        places[part] = Found(part, tmp_path / part.package, "here")
    monkeypatch.setattr(texts, "find_folders", lambda parts, *_: [places[part] for part in parts])
    captions = Captions.from_columns(text=["A fox.", "Päron"], lang=["en", "sv"], id=["a", "b"])
    monkeypatch.setattr(texts, "read_stamps", lambda place: captions if place == stamps else None)
    return tmp_path


def test_every_source_is_gathered_and_test_captions_are_left_out(cache):
    said: list[str] = []
    corpus = gather_texts(cache=cache, download=False, say=said.append)
    rows = set(zip(corpus.captions.texts, corpus.captions.langs, strict=True))
    assert {("rävansikte", "sv"), ("De anfaller i gryningen.", "sv"), ("They attack at dawn.", "en")} <= rows
    assert {("äpple", "sv"), ("djur", "sv"), ("Es ist in C geschrieben.", "de"), ("a pear", "en")} <= rows
    assert not {("päron", "sv")} & rows
    assert corpus.removed == 1
    assert "children's words: 5 rows in 3 languages" in said
    assert any("Wesnoth (did)" in line for line in corpus.missing)
    assert gather_texts(cache=cache, download=False).captions.table.equals(corpus.captions.table)


def test_names_of_a_test_caption_are_removed_with_all_their_translations(cache, monkeypatch):
    monkeypatch.setattr(texts, "read_stamps", lambda _: Captions.from_columns(text=["Fox."], lang="en"))
    corpus = gather_texts(cache=cache, download=False)
    assert "rävansikte" not in corpus.captions.texts
    assert "fox" not in corpus.captions.texts


def test_without_the_test_captions_nothing_is_gathered(cache, monkeypatch):
    monkeypatch.setattr(
        texts, "find_folders", lambda parts, *_: [Found(part, None, "apt-get is not on this system") for part in parts]
    )
    with pytest.raises(BabelclipError, match=r"cannot be left out without them.*apt-get is not on this system"):
        gather_texts(cache=cache, download=False)


def test_descriptions_that_cannot_be_had_are_named_and_the_rest_is_gathered(cache, monkeypatch):
    monkeypatch.setattr(descriptions, "find_lists", lambda *_: (_ for _ in ()).throw(BabelclipError("no lists")))
    corpus = gather_texts(cache=cache, download=False)
    assert "no lists" in corpus.missing
    assert "Debian descriptions" not in corpus.counts


def test_one_in_five_texts_of_languages_that_the_backbone_lacks_is_kept():
    rows = [Row(str(n), lang, f"word {n}") for lang in ("sr-Latn", "chr") for n in range(1000)]
    counts = Counter(row.lang for row in thinned(rows))
    assert counts["sr-Latn"] == 1000
    assert 150 < counts["chr"] < 250


def test_english_texts_come_before_the_rows_that_they_are_targets_of():
    rows = [Row("räv", "sv", "fox"), Row("Fuchs", "de", "fox")]
    assert with_english(rows) == [Row("fox", "en", "fox"), *rows]


def test_written_tables_hold_what_is_taught_and_every_target(tmp_path):
    rows = {"names": [Row("fox", "en", "fox"), Row("räv", "sv", "fox"), Row("Hund", "de", "dog")]}
    counts = write_texts(build_corpus(rows, ["owl"], SOURCES), tmp_path)
    taught, targets = read_captions(tmp_path / "captions.parquet"), read_captions(tmp_path / "sources.parquet")
    assert taught.texts == ["fox", "räv", "Hund"]
    assert targets.texts == ["fox", "dog"]
    wanted = [source or own for own, source in zip(taught.ids, taught.table["source_id"].to_pylist(), strict=True)]
    assert set(wanted) == set(targets.ids)
    assert json.loads((tmp_path / "counts.json").read_text())["by_source"] == {"names": {"de": 1, "en": 1, "sv": 1}}
    lines = count_lines(counts)
    assert lines[0] == "3 texts taught, 2 English texts as targets"
    assert "  names                          3  in 3 languages" in lines


def test_parts_have_full_checksums_and_no_name_twice():
    parts = texts.PACKAGES
    assert len({part.package for part in parts}) == len(parts)
    assert all(len(part.sha256) == 64 for part in (*parts, cldr.ANNOTATIONS, cldr.DERIVED))
    # The catalogues of an installed system are those of all programs: GIMP's alone are wanted.
    assert not debian.find_folder(catalogues.GIMP, Path("/nonexistent"), download=False).folder
