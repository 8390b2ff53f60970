"""Data sets through `datasets`: local folders here, and what is said where the hub cannot be asked."""

from __future__ import annotations

import time

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from babelclip.data.readers import hub
from babelclip.data.sources import count_captions, open_captions
from babelclip.errors import BabelclipError
from tests.data.layouts import ids_of, rows_of
from tests.data.readers.test_mclip import COUNTED, ROWS, WANTED_IDS

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def save(folder, rows, split="train"):
    return save_table(folder, pa.Table.from_pylist(rows), split)


def save_table(folder, table, split="train"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_folder_as_the_hub_has_it_is_read_in_parts_with_the_columns_of_files(tmp_path):
    rows = [{"caption_id": f"c{n}", "sentence": f"text {n}", "language": "swe", "score": n / 2} for n in range(7)]
    folder = save(tmp_path / "set", rows)
    save(tmp_path / "set", rows[:2], "validation")
    parts = list(open_captions(f"hub:{folder}", rows=3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert parts[0].table.to_pylist()[0] == {
        "id": "c0", "text": "text 0", "lang": "sv", "source_id": None, "image": None, "label": None,
    }  # fmt: skip
    assert ids_of(f"hub:{folder}::validation") == ["c0", "c1"]
    assert count_captions(f"hub:{folder}") is None
    with pytest.raises(BabelclipError, match=r"Bad split.*'train', 'validation'"):
        list(open_captions(f"hub:{folder}::test"))
    with pytest.raises(BabelclipError, match=r"'sv' not found.*CONFIG"):
        list(open_captions(f"hub:{folder}:sv"))


def test_mclips_translations_are_the_same_from_the_hub_as_from_files(tmp_path):
    rows, skipped = rows_of(f"hub:{save(tmp_path / 'm', ROWS)}", rows=2)
    assert ([row["id"] for row in rows], skipped) == (WANTED_IDS, COUNTED)


def test_parallel_sentences_take_the_language_from_the_configuration(tmp_path):
    folder = save(tmp_path / "parallel", [{"english": "a dog", "non_english": "en hund"}])
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: en-sv\n  data_files: data/*.parquet\n---\n")
    rows, _ = rows_of(f"hub:{folder}:en-sv")
    assert [(row["id"], row["lang"], row.get("source_id")) for row in rows] == [("0", "en", None), ("0-sv", "sv", "0")]


def test_a_saved_data_set_with_one_text_a_language_is_read(tmp_path):
    rows = [{"translation": {"sv": "hund", "en": "dog"}}, {"translation": {"sv": "", "en": "cat"}}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    found, skipped = rows_of(f"hub:{tmp_path / 'saved'}", rows=1)
    assert [(row["id"], row["text"], row["lang"]) for row in found] == [
        ("0", "dog", "en"), ("0-sv", "hund", "sv"), ("1", "cat", "en"),
    ]  # fmt: skip
    assert skipped == {"empty translation": 1}


def test_lists_of_captions_become_one_row_each(tmp_path):
    rows = [
        {"caption": ["one", "two"], "img_id": 5},
        {"caption": [], "img_id": 6},
        {"caption": ["three", " "], "img_id": 7},
    ]
    found, skipped = rows_of(f"hub:{save(tmp_path / 'lists', rows)}", lang="en", rows=2)
    assert [(row["id"], row["text"]) for row in found] == [("0#1", "one"), ("0#2", "two"), ("2#1", "three")]
    assert skipped == {"empty text": 2}


def test_a_data_set_that_comes_with_a_program_is_not_run(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BabelclipError, match=r"never run.*hf download"):
        list(open_captions(f"hub:{folder}"))
    assert not (tmp_path / "ran").exists()


def test_without_the_hub_an_error_names_the_command_within_five_seconds(monkeypatch):
    command = "hf download org/some --repo-type dataset --local-dir some"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    begin = time.monotonic()
    with pytest.raises(BabelclipError, match=f"HF_HUB_OFFLINE.*{command}"):
        list(open_captions("hub:org/some:en-sv"))

    class Silent:
        def dataset_info(self, *_, **__):
            time.sleep(1)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi", Silent)
    monkeypatch.setattr(hub, "DEADLINE", 0.1)
    with pytest.raises(BabelclipError, match=f"no answer within 0.1 s.*{command}"):
        list(open_captions("hub:org/some"))
    assert time.monotonic() - begin < 5


def answered(code, kind, message="no"):
    """What the hub's library raises at a status code."""
    response = httpx.Response(code, request=httpx.Request("GET", "http://hub.invalid/api/datasets/org/some"))
    return kind(message, response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answered(403, errors.GatedRepoError), r"org/some is gated: .*Accept them, log in with `hf auth login`"),
        (answered(404, errors.RepositoryNotFoundError), r"org/some is not on the hub, or it is private.*spelling"),
        # Asked too often: the library that loads it waits and asks again.
        (answered(429, errors.HfHubHTTPError), "cannot be read: it was loaded"),
    ],
)
def test_what_the_hub_answers_is_told_with_what_to_do(monkeypatch, error, message):
    def refused(*_, **__):
        raise error

    def load(*_, **__):
        raise ValueError("it was loaded")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refused)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(BabelclipError, match=message):
        list(open_captions("hub:org/some"))


def test_a_saved_set_of_splits_wants_one_of_them_and_an_empty_one_is_refused(tmp_path):
    rows = datasets.Dataset.from_list([{"text": "hund", "lang": "sv"}])
    datasets.DatasetDict({"train": rows, "none": rows.select([])}).save_to_disk(str(tmp_path / "saved"))
    assert ids_of(f"hub:{tmp_path / 'saved'}") == ["0"]
    with pytest.raises(BabelclipError, match=r"has the splits train, none, not 'test': give hub:.*::SPLIT"):
        list(open_captions(f"hub:{tmp_path / 'saved'}::test"))
    with pytest.raises(BabelclipError, match=r"none is empty\. .*choose another split"):
        list(open_captions(f"hub:{tmp_path / 'saved'}::none"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hub:", "is no data set"),
        ("hub:a:b:c:d", "hub:NAME:CONFIG:SPLIT"),
        ("hub:./nothing", "there is no such folder"),
    ],
)
def test_words_that_name_no_data_set_are_refused(words, message):
    with pytest.raises(BabelclipError, match=message):
        list(open_captions(words))


def test_lists_of_one_length_are_lists_and_lists_of_nothing_are_counted(tmp_path):
    columns = {"caption": [["a", "b"], ["c", " "]], "lang": ["en", "en"]}
    kinds = pa.schema({"caption": pa.list_(pa.string(), 2), "lang": pa.string()})
    rows, skipped = rows_of(f"hub:{save_table(tmp_path / 'fixed', pa.table(columns, schema=kinds))}")
    assert [(row["id"], row["text"]) for row in rows] == [("0#1", "a"), ("0#2", "b"), ("1#1", "c")]
    assert skipped == {"empty text": 1}
    columns = {"id": ["x", "y", None, "", "z"], "caption": [["a"], [], ["b"], ["c"], None], "lang": ["en"] * 5}
    folder = save_table(tmp_path / "lists", pa.table(columns))
    rows, skipped = rows_of(f"hub:{folder}")
    assert ([row["id"] for row in rows], skipped) == (["x#1"], {"empty text": 2, "no id": 2})
    with pytest.raises(BabelclipError, match=r"row 1: empty text"):
        list(open_captions(f"hub:{folder}", strict=True))
