"""A store goes out as a data set folder and comes back with the same bits; a stopped run ends in the same bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from babelclip.data.captions import Captions
from babelclip.data.publish import import_published, publish_store
from babelclip.data.sources import read_all
from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore

DIM = 6


def vector_of(text: str) -> np.ndarray:
    """A vector that no other text has."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float16)


def make_captions(n: int = 10) -> Captions:
    return Captions.from_columns(
        id=[f"c{i}" for i in range(n)], text=[f"caption number {i}" for i in range(n)], lang=["en"] * n
    )


def make_translations(n: int = 10) -> Captions:
    return Captions.from_columns(
        id=[f"c{i}-{lang}" for lang in ("sv", "no") for i in range(n)],
        source_id=[f"c{i}" for _ in range(2) for i in range(n)],
        text=[f"{lang}: bildtext {i}" for lang in ("sv", "no") for i in range(n)],
        lang=[lang for lang in ("sv", "no") for _ in range(n)],
    )


def make_store(folder: Path, captions: Captions, dtype: str = "float16", shard: int = 4) -> EmbeddingStore:
    with EmbeddingStore.create(folder, space="s", model="teacher/x", dim=DIM, dtype=dtype, normalized=False) as store:
        for start in range(0, len(captions), shard):
            vectors = np.stack([vector_of(text) for text in captions.texts[start : start + shard]])
            store.append(captions.ids[start : start + shard], vectors)
    return EmbeddingStore.open(folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return make_store(tmp_path / "store", make_captions())


def test_datasets_reads_the_folder_with_its_vectors(store: EmbeddingStore, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    published = publish_store(
        store, [make_captions(), make_translations()], tmp_path / "out", licence="cc-by-4.0", rows=4
    )
    assert (published.rows, published.translations, published.without_caption) == (10, 20, 0)
    assert published.languages == {"en": 10, "no": 10, "sv": 10}
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert rows.column_names == ["id", "source_id", "text", "lang", "embedding"]
    assert rows.features["embedding"].length == DIM
    assert "float16" in str(rows.features["embedding"])
    assert rows["id"][:] == make_captions().ids
    for row in rows:
        assert np.array_equal(np.array(row["embedding"], np.float16), vector_of(row["text"]))
    more = datasets.load_dataset(str(tmp_path / "out"), "translations", split="train", cache_dir=cache)
    assert more.column_names == ["id", "source_id", "text", "lang"]
    assert set(more["source_id"]) == set(rows["id"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_imported_vectors_are_the_same_bit_for_bit(tmp_path: Path, dtype: str):
    store = make_store(tmp_path / "store", make_captions(), dtype)
    publish_store(store, make_captions(), tmp_path / "out", licence="mit", rows=3)
    back = import_published(tmp_path / "out", tmp_path / "back")
    assert back.ids == store.ids
    assert np.array_equal(np.concatenate(list(back.vectors())), np.concatenate(list(store.vectors())))
    for fact in ("space", "model", "dim", "dtype", "normalized", "kind", "target"):
        assert getattr(back, fact) == getattr(store, fact)
    assert back.verify() == []


def test_captions_in_another_order_keep_their_own_vectors(store: EmbeddingStore, tmp_path: Path):
    captions = make_captions()
    order = np.random.default_rng(0).permutation(len(captions))[:7]
    shuffled = Captions(captions.table.take(order))
    published = publish_store(store, shuffled, tmp_path / "out", licence="mit", rows=3)
    assert (published.rows, published.without_caption) == (7, 3)
    back = import_published(tmp_path / "out", tmp_path / "back")
    assert back.ids == shuffled.ids
    for name, text in zip(shuffled.ids, shuffled.texts, strict=True):
        assert np.array_equal(back.gather(back.positions([name]))[0], vector_of(text).astype(np.float32))


def test_published_captions_can_be_read_as_captions(store: EmbeddingStore, tmp_path: Path):
    publish_store(store, [make_captions(), make_translations()], tmp_path / "out", licence="mit", rows=4)
    assert read_all(tmp_path / "out" / "data").table.equals(make_captions().table)
    assert read_all(tmp_path / "out" / "translations").table.equals(make_translations().table)


def test_a_store_without_captions_is_published_by_its_ids(store: EmbeddingStore, tmp_path: Path):
    published = publish_store(store, None, tmp_path / "out", licence="mit", rows=4)
    assert (published.rows, published.languages) == (10, {})
    assert import_published(tmp_path / "out", tmp_path / "back").ids == store.ids
    assert "language:" not in (tmp_path / "out/README.md").read_text()


def test_the_card_says_what_a_hub_and_a_reader_need(store: EmbeddingStore, tmp_path: Path):
    yaml = pytest.importorskip("yaml")
    publish_store(
        store,
        [make_captions(), make_translations()],
        tmp_path / "out",
        licence="cc-by-4.0",
        attribution=["The makers of the captions"],
        name="Captions: with vectors",
        teacher_revision="abc123",
        about="Translated by a *machine*.",
    )
    card = (tmp_path / "out/README.md").read_text()
    _, front, text = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "cc-by-4.0"
    assert facts["language"] == ["en", "no", "sv"]  # and not False, which a bare `no` is
    assert facts["pretty_name"] == "Captions: with vectors"
    assert facts["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in facts["configs"]] == ["default", "translations"]
    for words in (
        "abc123", "teacher/x", "float16", "not of length 1", "cc-by-4.0", "The makers of the captions",
        "Translated by a *machine*.", "| sv | Swedish | 10 |", "load_dataset", "import_published",
    ):  # fmt: skip
        assert words in text, words


def test_a_licence_that_the_hub_does_not_know_is_named_beside_other(store: EmbeddingStore, tmp_path: Path):
    yaml = pytest.importorskip("yaml")
    publish_store(store, None, tmp_path / "out", licence="Tux Paint stamps")
    facts = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    assert (facts["license"], facts["license_name"]) == ("other", "Tux Paint stamps")


def test_checksums_cover_every_file(store: EmbeddingStore, tmp_path: Path):
    publish_store(store, make_captions(), tmp_path / "out", licence="mit", rows=4)
    lines = (tmp_path / "out/SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    contents = bytes_of(tmp_path / "out")
    assert set(listed) == set(contents) - {"SHA256SUMS"}
    assert all(hashlib.sha256(contents[name]).hexdigest() == digest for name, digest in listed.items())
    assert sorted(name for name in contents if name.startswith("data/")) == [
        f"data/train-0000{i}-of-00003.parquet" for i in range(3)
    ]


def test_equal_input_gives_equal_bytes_however_the_captions_are_cut(store: EmbeddingStore, tmp_path: Path):
    captions = make_captions()
    parts = [Captions(captions.table.slice(start, 3)) for start in range(0, 10, 3)]
    for name, given in (("one", captions), ("two", parts), ("three", iter(parts))):
        publish_store(store, given, tmp_path / name, licence="mit", name="x", rows=4)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two") == bytes_of(tmp_path / "three")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_publishing_the_same_again_changes_nothing_and_other_captions_are_refused(
    store: EmbeddingStore, tmp_path: Path
):
    publish_store(store, make_captions(), tmp_path / "out", licence="mit", rows=4)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    assert publish_store(store, make_captions(), tmp_path / "out", licence="mit", rows=4).rows == 10
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == times
    with pytest.raises(BabelclipError, match=r"other captions.*choose another"):
        publish_store(store, Captions(make_captions().table.slice(1)), tmp_path / "out", licence="mit", rows=4)
    with pytest.raises(BabelclipError, match="other captions"):
        publish_store(store, Captions(make_captions().table.slice(0, 4)), tmp_path / "out", licence="mit", rows=4)
    with pytest.raises(BabelclipError, match="new or empty folder"):
        publish_store(store, make_captions(), tmp_path / "out", licence="cc-by-4.0", rows=4)


@pytest.mark.parametrize("licence", ["", "  "])
def test_nothing_is_published_without_a_licence(store: EmbeddingStore, tmp_path: Path, licence: str):
    with pytest.raises(BabelclipError, match=r"without a licence.*cc-by-4\.0"):
        publish_store(store, None, tmp_path / "out", licence=licence)
    assert not (tmp_path / "out").exists()


def test_captions_without_vector_are_refused_with_their_ids(store: EmbeddingStore, tmp_path: Path):
    strangers = Captions.from_columns(id=["x1", "x2"], source_id=["gone", None], text=["a", "b"], lang="sv")
    with pytest.raises(BabelclipError, match=r"2 of 2 captions have no vector.*\['x1', 'x2'\].*embed these"):
        publish_store(store, strangers, tmp_path / "out", licence="mit")
    assert not (tmp_path / "out").exists()


def test_a_caption_that_comes_twice_is_refused(store: EmbeddingStore, tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"10 captions have the id of another, first 'c0'"):
        publish_store(store, [make_captions(), make_captions()], tmp_path / "out", licence="mit")


def test_a_folder_with_other_things_is_refused_and_left_alone(store: EmbeddingStore, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/diary.txt").write_text("mine")
    with pytest.raises(BabelclipError, match="other things"):
        publish_store(store, None, tmp_path / "out", licence="mit")
    assert bytes_of(tmp_path / "out") == {"diary.txt": b"mine"}


def test_import_refuses_what_is_damaged_and_what_is_no_data_set(store: EmbeddingStore, tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"no babelclip\.json"):
        import_published(tmp_path, tmp_path / "back")
    publish_store(store, None, tmp_path / "out", licence="mit", rows=4)
    file = tmp_path / "out/data/train-00001-of-00003.parquet"
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(BabelclipError, match=r"train-00001-of-00003.*Download it again"):
        import_published(tmp_path / "out", tmp_path / "back")
    content[20] ^= 1
    file.write_bytes(bytes(content))
    # What was whole has been imported; the next run goes on behind it.
    assert len(EmbeddingStore.open(tmp_path / "back")) == 4
    assert import_published(tmp_path / "out", tmp_path / "back").ids == store.ids
    with pytest.raises(BabelclipError, match="not the first ones"):
        import_published(tmp_path / "out", make_store(tmp_path / "other", make_captions(3)).path)
    manifest = tmp_path / "out/babelclip.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(BabelclipError, match=r"babelclip\.json is of another kind or version.*or a newer one"):
        import_published(tmp_path / "out", tmp_path / "again")


def test_files_without_rows_are_refused(store: EmbeddingStore, tmp_path: Path):
    with pytest.raises(BabelclipError, match="rows=0 of a file is not allowed: give 1 or more"):
        publish_store(store, None, tmp_path / "out", licence="mit", rows=0)


def test_killed_at_any_step_it_ends_in_the_same_bytes(store: EmbeddingStore, tmp_path: Path):
    publish_store(store, [make_captions(), make_translations()], tmp_path / "whole", licence="mit", name="x", rows=4)
    # One run that is killed again and again, a few steps later each time.
    steps = ("4", "20", "31", "48", "58", "60")
    command = [sys.executable, "-m", "tests.data.killed_publish", str(store.path), str(tmp_path / "out"), *steps]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    kills = sum(end["status"] == signal.SIGKILL for end in ends)
    assert {end["status"] for end in ends} <= {0, signal.SIGKILL}, done.stderr
    # What a kill leaves has no name yet, or is whole.
    assert all(end["whole"] for end in ends)
    assert kills >= 3
    publish_store(store, [make_captions(), make_translations()], tmp_path / "out", licence="mit", name="x", rows=4)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert not list(tmp_path.glob(".*publishing"))


def test_a_run_that_goes_on_writes_only_what_lacks(
    store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import babelclip.data.publish_files as publish_files

    def parts():
        yield Captions(make_captions().table.slice(0, 8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_store(store, parts(), tmp_path / "out", licence="mit", rows=4)
    assert not (tmp_path / "out").exists()
    written = []
    real = publish_files.ParquetFiles._write_file

    def counted(self: publish_files.ParquetFiles, path: Path, table: pa.Table, places: np.ndarray) -> None:
        written.append(table.num_rows)
        real(self, path, table, places)

    monkeypatch.setattr(publish_files.ParquetFiles, "_write_file", counted)
    publish_store(store, make_captions(), tmp_path / "out", licence="mit", rows=4)
    assert written == [2]
    content = json.loads((tmp_path / "out/babelclip.json").read_text())
    assert [entry["rows"] for entry in content["files"].values()] == [4, 4, 2]


def test_one_process_publishes_at_a_time(store: EmbeddingStore, tmp_path: Path):
    def parts():
        with pytest.raises(BabelclipError, match=r"out is being published by process \d+\. .*wait for it"):
            publish_store(store, make_captions(), tmp_path / "out", licence="mit", rows=4)
        yield make_captions()

    assert publish_store(store, parts(), tmp_path / "out", licence="mit", rows=4).rows == 10
    assert not list(tmp_path.glob(".*publishing"))


def test_parts_may_stand_beside_other_captions(store: EmbeddingStore, tmp_path: Path):
    parts = (Captions(make_captions().table.slice(start, 5)) for start in (0, 5))
    made = publish_store(store, [parts, make_translations()], tmp_path / "out", licence="mit")
    assert (made.rows, made.translations) == (10, 20)
