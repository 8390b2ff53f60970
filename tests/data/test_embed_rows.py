"""Texts and ids of a store: each distinct text once, and never the vector of one text under the id of another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from babelclip.data import embed as module
from babelclip.data import embed_rows
from babelclip.data.captions import Captions, read_captions, write_captions
from babelclip.data.embed import embed_captions, embed_file
from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore
from tests.conftest import make_clip
from tests.data.test_embed import Counting, make_captions


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    monkeypatch.setattr("babelclip.data.embed_shard._AT_ONCE", 6)


def test_each_distinct_text_is_encoded_once_over_shards_runs_and_files(tmp_path, monkeypatch):
    clip, reports = make_clip(), []
    counted = Counting(clip, monkeypatch)
    store = embed_captions(clip, make_captions(90), tmp_path / "s", dtype="float32", report=reports.append)
    assert sorted(counted.texts) == sorted(f"a dog {row}" for row in range(40))
    assert store.rows["repeat"].to_pylist() == [row >= 40 for row in range(90)]
    again = embed_captions(clip, make_captions(60, first=90), tmp_path / "s", dtype="float32", report=reports.append)
    assert len(counted.texts) == 40
    assert [(made.there, made.added, made.encoded) for made in reports] == [(0, 90, 40), (90, 60, 0)]
    vectors = again.read()
    for row in range(150):
        np.testing.assert_array_equal(vectors[row], vectors[row % 40])
    np.testing.assert_allclose(vectors[:40], clip.encode_text([f"a dog {n}" for n in range(40)], False), atol=1e-5)


def test_a_text_that_fills_many_shards_is_looked_up_in_one(tmp_path, monkeypatch):
    same = Captions.from_columns(text=["a dog"] * 200, lang="en")
    embed_captions(make_clip(), same, tmp_path / "s")
    facts = {"space": "test/tiny", "model": "tiny", "dim": 16, "normalized": False}
    with EmbeddingStore.open_or_create(tmp_path / "s", **facts) as store:
        known, read = embed_rows.KnownTexts(store), []
        hashes = pa.chunked_array([[embed_rows.text_hash("a dog")] * 16])
        monkeypatch.setattr(known._file, "_ids_of_shard", lambda number: read.append(number) or hashes)
        assert known.find([embed_rows.text_hash("a dog")]).tolist() == [0]
    assert read == [0]


def test_a_language_matters_only_to_models_that_read_it(tmp_path, monkeypatch):
    rows = Captions.from_columns(text=["a", "b", "a"], lang=["en", "en", "sv"])
    clip = make_clip()
    counted = Counting(clip, monkeypatch)
    embed_captions(clip, rows, tmp_path / "deaf")
    assert counted.texts == ["a", "b"]
    seen = []
    monkeypatch.setattr(clip.text.tokenizer, "language", "en")
    monkeypatch.setattr(
        clip.text, "encode", lambda texts, *_, lang, **__: seen.append((texts, lang)) or np.ones((3, 16), np.float32)
    )
    embed_captions(clip, rows, tmp_path / "reads")
    assert seen == [(["a", "b", "a"], ["en", "en", "sv"])]


# -- an id and its text ----------------------------------------------------------------------------------------------


def texts_file(path, texts):
    write_captions(Captions.from_columns(text=texts, lang="en", id=[str(n) for n in range(len(texts))]), path)
    return path


@pytest.mark.parametrize("backwards", [False, True])
def test_an_id_whose_vector_was_made_from_another_text_is_refused_by_name(tmp_path, backwards):
    texts = [f"a dog {n}" for n in range(20)]
    embed_file(make_clip(), texts_file(tmp_path / "first.jsonl", texts), tmp_path / "s")
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    captions = read_captions(texts_file(tmp_path / "second.jsonl", [*texts[:7], "a cat", *texts[8:], "new"]))
    if backwards:
        captions = Captions(captions.table.take(list(range(20, -1, -1))))
    write_captions(captions, tmp_path / "second.jsonl")
    expected = r"1 of 20 ids .* in second.jsonl: first id '7', here 'a cat', while row 7 .* another text of first.jsonl"
    with pytest.raises(BabelclipError, match=expected):
        embed_file(make_clip(), tmp_path / "second.jsonl", tmp_path / "s")
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before


def test_a_second_file_without_ids_is_an_error_and_not_taken_for_the_first(tmp_path):
    for name, word in (("a", "dog"), ("b", "cat")):
        (tmp_path / f"{name}.csv").write_text("text,lang\n" + "\n".join(f"{word} {n},en" for n in range(5)))
    embed_file(make_clip(), tmp_path / "a.csv", tmp_path / "s")
    expected = "5 of 5 ids .* first id '0'.* a.csv.*ids of their own, or embed them into a new folder"
    with pytest.raises(BabelclipError, match=expected):
        embed_file(make_clip(), tmp_path / "b.csv", tmp_path / "s")


@pytest.mark.parametrize("seed", range(3))
def test_vectors_are_those_of_the_texts_of_their_ids_however_rows_are_shuffled_and_dropped(tmp_path, seed):
    rng, clip = np.random.default_rng(seed), make_clip()
    texts = {f"id{n}": f"the red dog {n % 23}" for n in range(60)}
    for run in range(3):
        ids = [str(name) for name in rng.permutation(list(texts))[: rng.integers(10, 60)]]
        rows = Captions.from_columns(text=[texts[name] for name in ids], lang="en", id=ids)
        parts = [Captions(rows.table.slice(start, 9)) for start in range(0, len(rows), 9)]
        store = embed_captions(clip, parts, tmp_path / "s", dtype="float32", source=f"run {run}")
        expected = clip.encode_text([texts[name] for name in ids], False)
        np.testing.assert_allclose(store.gather(store.positions(ids)), expected, atol=1e-5)
    assert len(store.ids) == len(set(store.ids))


def test_a_store_that_knows_no_texts_is_not_added_to(tmp_path):
    with EmbeddingStore.create(tmp_path / "s", space="test/tiny", model="tiny", dim=16, normalized=False) as store:
        store.append(["c0"], np.ones((1, 16)))
    with pytest.raises(BabelclipError, match=r"without the column 'text_hash'.*embed into a new folder"):
        embed_captions(make_clip(), make_captions(20), tmp_path / "s", dtype="float16")


# -- which captions --------------------------------------------------------------------------------------------------


def test_sources_only_leaves_translations_to_their_sources_and_counts_them(tmp_path):
    rows = Captions.from_columns(
        id=["1", "1-sv", "2", "2-sv"],
        text=["dog", "hund", "cat", "katt"],
        lang=["en", "sv"] * 2,
        source_id=[None, "1", None, "2"],
    )
    write_captions(rows, tmp_path / "c.jsonl")
    reports = []
    store = embed_file(make_clip(), tmp_path / "c.jsonl", tmp_path / "s", sources_only=True, report=reports.append)
    assert store.ids == ["1", "2"]
    assert reports[0].skipped == {module.LEFT_TO_SOURCE: 2}
    write_captions(rows.select("sv"), tmp_path / "sv.jsonl")
    with pytest.raises(BabelclipError, match=r"each of its 2 usable rows names a source_id.*without --sources-only"):
        embed_file(make_clip(), tmp_path / "sv.jsonl", tmp_path / "t", sources_only=True)


def test_of_a_translate_folder_the_sources_are_embedded(tmp_path, caplog):
    folder = tmp_path / "translated"
    (folder / "translations" / "sv").mkdir(parents=True)
    (folder / "sources").mkdir()
    (folder / "manifest.json").write_text('{"sources": null}')
    write_captions(Captions.from_columns(text=["dog"], lang="en", id=["1"]), folder / "sources" / "00000.parquet")
    write_captions(
        Captions.from_columns(text=["hund"], lang="sv", id=["1-sv"], source_id=["1"]),
        folder / "translations" / "sv" / "00000.parquet",
    )
    store = embed_file(make_clip(), folder, tmp_path / "s")
    assert "translated does not have all its sources yet" in caplog.text
    assert store.ids == ["1"]
    assert store.rows["source"].to_pylist() == ["translated/sources"]
