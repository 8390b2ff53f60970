"""A translation: every caption where it belongs, the same bytes whatever happened on the way, plain refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import open_captions, read_all
from babelclip.errors import BabelclipError
from babelclip.store.layout import lock_folder
from babelclip.translate import jobs, pipeline
from babelclip.translate.choices import EngineChoice
from babelclip.translate.filters import make_filters
from babelclip.translate.jobs import Job
from babelclip.translate.pipeline import translate_captions
from babelclip.translate.workers import next_job
from tests.translate import fake
from tests.translate.fake import FAKE, translation

TO = ["sv", "de", "fr"]


def make_source(folder, count=60, name="captions.jsonl", **columns):
    numbers = range(count)
    texts = [f"A red dog {n % 25} runs{' far' * (n % 5)}{' bad words here' * (n % 9 == 8)}" for n in numbers]
    columns = {"lang": "en", "id": [f"c{n}" for n in numbers], "label": [f"l{n}" for n in numbers], **columns}
    captions = Captions.from_columns(text=texts, **columns)
    write_captions(captions, folder / name)
    return folder / name


def content(out, but=("timings.jsonl", ".lock")):
    """Every file but those that tell of a process."""
    return {
        str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file() and f.name not in but
    }


def run(source, out, **given):
    return translate_captions(source, out, **{"to": TO, "engine": FAKE, "rows": 30, "batch_size": 5, **given})


def test_every_caption_is_in_one_row_that_points_at_it(tmp_path):
    source = make_source(tmp_path)
    report = run(source, tmp_path / "out", filters=make_filters(off=["all"]))
    originals = {row["id"]: row for row in read_all(source).table.to_pylist()}
    rows = read_all(tmp_path / "out").table.to_pylist()
    assert sorted(row["source_id"] for row in rows) == sorted(originals)
    for row in rows:
        original = originals[row["source_id"]]
        assert row["id"] == f"{original['id']}-{row['lang']}"
        expected = original["text"] if row["lang"] == "en" else translation(original["text"], row["lang"])
        assert row["text"] == expected
        assert row["label"] == original["label"]
    assert {lang: one.kept for lang, one in report.languages.items()} == {"sv": 18, "de": 18, "fr": 18, "en": 6}
    sources = read_all(tmp_path / "out" / "sources")
    assert sources.ids == list(originals)
    assert set(sources.langs) == {"en"}


def test_what_is_rejected_is_kept_aside_with_reason_and_value(tmp_path):
    source = make_source(tmp_path)
    report = run(source, tmp_path / "out", plan="all", keep_english=0)
    lines = [
        json.loads(line)
        for path in (tmp_path / "out" / "rejected" / "sv").iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    originals = dict(zip(read_all(source).ids, read_all(source).texts, strict=True))
    bad = [name for name, text in originals.items() if "bad" in text]
    assert sorted(line["source_id"] for line in lines) == sorted(bad)
    for line in lines:
        assert line["id"] == f"{line['source_id']}-sv"
        assert line["source_text"] == originals[line["source_id"]]
        assert (line["lang"], line["reason"]) == ("sv", "copy")
        assert line["value"] >= 3
    one = report.languages["sv"]
    assert (one.planned, one.kept, one.rejected) == (60, 60 - len(bad), {"copy": len(bad)})
    kept = {row["source_id"] for row in read_all(tmp_path / "out", only="sv").table.to_pylist()}
    assert kept == set(originals) - set(bad)


def test_a_text_is_translated_once_in_batches_of_like_length(tmp_path, monkeypatch):
    engines = []
    monkeypatch.setattr(fake, "open_fake", lambda device: engines.append(fake.FakeEngine()) or engines[-1])
    choice = EngineChoice("fake", opener=lambda device: fake.open_fake(device))
    run(make_source(tmp_path), tmp_path / "out", to=["sv"], engine=choice, plan="all", keep_english=0, rows=100)
    batches = [batch for engine in engines for batch in engine.batches]
    texts = [text for batch in batches for text in batch]
    assert len(texts) == len(set(texts)) == len(set(read_all(tmp_path / "captions.jsonl").texts))
    assert [len(text) for text in texts] == sorted((len(text) for text in texts), reverse=True)
    assert {len(batch) for batch in batches[:-1]} == {5}
    assert all(engine.closed for engine in engines)


@pytest.mark.parametrize("parts", [1, 8, 1000])
def test_the_source_may_come_in_parts_of_any_size(tmp_path, monkeypatch, finished, parts):
    source, whole = finished
    monkeypatch.setattr(pipeline, "open_captions", lambda *a, **k: open_captions(*a, **k, rows=parts))
    run(source, tmp_path / "again")
    assert content(tmp_path / "again") == content(whole)


def test_equal_runs_write_equal_bytes_and_another_seed_does_not(tmp_path, finished):
    source, before = finished
    for name, seed in (("same", 0), ("other", 1)):
        run(source, tmp_path / name, seed=seed)
    assert content(tmp_path / "same") == content(before)
    shard = "translations/sv/00000.parquet"
    assert content(tmp_path / "other")[shard] != content(before)[shard]


def test_several_workers_write_the_same_bytes_as_one(tmp_path, finished):
    source, one = finished
    run(source, tmp_path / "two", devices=["cuda:0", "cuda:1"])  # only names to the engine of the tests
    assert content(tmp_path / "two") == content(one)
    devices = [json.loads(line)["device"] for line in (tmp_path / "two" / "timings.jsonl").read_text().splitlines()]
    assert len(devices) == 8
    assert set(devices) == {"cuda:0", "cuda:1"}


def test_workers_stay_with_a_language_then_begin_another_then_help():
    pending = {lang: [Job(lang, block, 10) for block in range(2)] for lang in TO}
    assert next_job(pending, "", {}) == Job("sv", 0, 10)
    assert next_job(pending, "", {"sv": 1}) == Job("de", 0, 10)
    assert next_job(pending, "sv", {"de": 1}) == Job("sv", 1, 10)
    assert next_job(pending, "sv", {"de": 1}) == Job("fr", 0, 10)
    assert next_job(pending, "sv", {"de": 1, "fr": 1}).lang in ("de", "fr")
    assert next_job(pending, "de", {"fr": 1}) is not None
    assert next_job(pending, "de", {"fr": 1}) is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A source and its finished translation, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    source = make_source(folder)
    run(source, folder / "out")
    return source, folder / "out"


# -- interruptions ---------------------------------------------------------------------------------------------------


def test_killed_runs_go_on_to_the_same_bytes_without_repeating_a_finished_shard(tmp_path):
    """SIGKILL at random moments, with one worker and with two; killed_translation.py takes more kills by hand."""
    command = [sys.executable, "-m", "tests.translate.killed_translation", str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"]
    assert found["kills"] >= 2
    assert found["repeated_shards"] == 0


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 9])
def test_a_run_that_stops_between_any_two_writes_goes_on_to_the_same_bytes(tmp_path, monkeypatch, finished, stop):
    source, whole = finished
    real, writes = jobs.write_captions, []

    def counted(*given):
        if len(writes) == stop:
            raise KeyboardInterrupt
        writes.append(given)
        real(*given)

    for module in (jobs, pipeline):
        monkeypatch.setattr(module, "write_captions", counted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "cut")
    for module in (jobs, pipeline):
        monkeypatch.setattr(module, "write_captions", real)
    run(source, tmp_path / "cut")
    assert content(tmp_path / "cut") == content(whole)


def test_a_resumed_run_needs_the_source_no_more(tmp_path):
    source = make_source(tmp_path)
    run(source, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", engine=EngineChoice("fake", opener=fake.open_interrupted))
    assert pipeline.kept_so_far(tmp_path / "out") == (2, 18)
    moved = source.rename(tmp_path / "moved.jsonl")
    run(moved, tmp_path / "out")  # the same file under another name
    moved.unlink()
    run(source, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_finished_folder_is_left_as_it_is(tmp_path, monkeypatch):
    source = make_source(tmp_path)
    first = run(source, tmp_path / "out")
    before = content(tmp_path / "out", but=())
    monkeypatch.setattr(fake.FakeEngine, "translate", lambda *given: pytest.fail("translated again"))
    assert run(source, tmp_path / "out").languages == first.languages
    after = content(tmp_path / "out", but=())
    assert {name for name in after if after[name] != before.get(name)} <= {".lock"}


def test_a_shard_that_lost_bytes_is_made_again(tmp_path):
    source = make_source(tmp_path)
    run(source, tmp_path / "out")
    before = content(tmp_path / "out")
    path = tmp_path / "out" / "translations" / "sv" / "00001.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    run(source, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    source = make_source(tmp_path)
    run(source, tmp_path / "out")
    left = [tmp_path / "out" / name for name in (".manifest.json.1.part", "translations/sv/.00000.parquet.1.part")]
    for path in left:
        path.write_bytes(b"half")
    run(source, tmp_path / "out")
    assert not any(path.exists() for path in left)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 5}, "plan.seed was 0, and is 5"),
        ({"to": ["sv", "de"]}, "plan.languages was sv,de,fr, and is sv,de"),
        ({"keep_english": 0.2}, r"plan.keep_english was 0.1, and is 0.2"),
        ({"plan": "all"}, "plan.plan was 'split', and is 'all'"),
        ({"filters": make_filters(off=["copy"])}, "filters.copy was True, and is not given"),
        ({"filters": make_filters(round_trip=0.4)}, "filters.round-trip was not given, and is 0.4"),
        ({"rows": 31}, "rows was 30, and is 31"),
        ({"engine": EngineChoice("other", opener=fake.open_fake)}, "engines.sv.engine was 'fake', and is 'other'"),
    ],
)
def test_other_options_are_refused_and_every_difference_is_named(finished, given, message):
    source, out = finished
    before = content(out)
    with pytest.raises(BabelclipError, match=message) as error:
        run(source, out, **given)
    assert "was begun otherwise" in str(error.value)
    assert "choose another folder" in str(error.value)
    assert content(out) == before


def test_another_source_is_refused(tmp_path):
    source = make_source(tmp_path)
    run(source, tmp_path / "out")
    other = make_source(tmp_path, 59, "other.jsonl")
    with pytest.raises(BabelclipError, match=r"the source was .*captions.jsonl, and is .*other.jsonl"):
        run(other, tmp_path / "out")
    other.rename(source)
    with pytest.raises(BabelclipError, match=r"had [\d,]+ bytes, and has [\d,]+"):
        run(source, tmp_path / "out")
    with pytest.raises(BabelclipError, match="the source was"):
        run(tmp_path / "absent.jsonl", tmp_path / "out")


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    source = make_source(tmp_path)
    real = pipeline.write_captions

    def third(captions, path):
        if path.name == "00001.parquet":
            raise KeyboardInterrupt
        real(captions, path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pipeline, "write_captions", third)
        run(source, tmp_path / "out")
    facts = pipeline.folder.source_facts(source)
    monkeypatch.setattr(pipeline.folder, "source_facts", lambda _source: facts)
    source.write_text(source.read_text().replace("dog", "cat"))
    with pytest.raises(BabelclipError, match="has other captions than when"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("opener", "message"),
    [(fake.open_too_few, "gave 4 translations into sv for 5 texts"), (fake.open_no_text, "one text")],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_engine_that_loses_texts_stops_the_run_before_anything_is_written(tmp_path, opener, message, workers):
    with pytest.raises(BabelclipError, match=message):
        run(
            make_source(tmp_path),
            tmp_path / "out",
            engine=EngineChoice("fake", opener=opener),
            devices=["cpu"] * workers,
            to=["sv"],
            keep_english=0,
        )
    assert not list((tmp_path / "out").glob("translations/*/*"))


def test_an_engine_that_fails_keeps_what_is_finished(tmp_path, finished):
    source, whole = finished
    with pytest.raises(BabelclipError, match="buy more"):
        run(source, tmp_path / "out", engine=EngineChoice("fake", opener=fake.open_failing))
    assert pipeline.kept_so_far(tmp_path / "out") == (2, 18)
    run(source, tmp_path / "out")
    assert content(tmp_path / "out") == content(whole)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": ()}, "devices is empty: give at least one"),
        ({"rows": 0}, "rows=0 and batch_size=5: each must be at least 1"),
        ({"batch_size": 0}, "rows=30 and batch_size=0: each must be at least 1"),
        ({"engine": {"swe": FAKE, "de": FAKE}}, r"no engine was given for fr; there is one for sv, de\..*leave the"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_folder_is_begun(tmp_path, given, message):
    with pytest.raises(BabelclipError, match=message):
        run(make_source(tmp_path), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_each_language_may_have_an_engine_of_its_own(tmp_path):
    other = EngineChoice("other", opener=fake.open_newer)
    report = run(make_source(tmp_path), tmp_path / "out", engine={"sv": FAKE, "de": FAKE, "fr": other})
    assert [report.languages[lang].model for lang in TO] == ["fake-1-sv", "fake-1-de", "fake-2-fr"]


def test_a_manifest_of_another_program_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"format": "something else"}')
    with pytest.raises(BabelclipError, match=r"is not the manifest of a translation.*another folder"):
        run(make_source(tmp_path), tmp_path / "out")


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(tmp_path):
    choice = EngineChoice("fake", opener=fake.open_dying)
    with pytest.raises(BabelclipError, match=r"ended with code 77 at block \d of .*fewer workers"):
        run(make_source(tmp_path), tmp_path / "out", engine=choice, devices=["cpu", "cpu"])


def test_a_language_comes_from_one_model(tmp_path, monkeypatch):
    source = make_source(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", engine=EngineChoice("fake", opener=fake.open_interrupted))
    (tmp_path / "out" / "shards" / "sv" / "00001.json").unlink()
    with pytest.raises(BabelclipError, match="translated by fake-1-sv so far, and fake now has fake-2-sv"):
        run(source, tmp_path / "out", engine=EngineChoice("fake", opener=fake.open_newer))


def test_a_language_that_the_engine_lacks_is_refused_before_a_folder_is_begun(tmp_path):
    with pytest.raises(BabelclipError, match="does not translate into ja; it serves 6 languages"):
        run(make_source(tmp_path), tmp_path / "out", to=["sv", "ja"])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_ids_that_occur_twice_are_refused_across_blocks_too(tmp_path):
    lines = make_source(tmp_path).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[47]["id"] = "c3"
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(BabelclipError, match=r"more than once, first \['c3'\]"),
    ):
        patched.setattr(pipeline, "open_captions", lambda *a, **k: open_captions(*a, **k, rows=10))
        run(tmp_path / "twice.jsonl", tmp_path / "out")


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    source = make_source(tmp_path)
    run(source, tmp_path / "out")
    release = lock_folder(tmp_path / "out")
    try:
        with pytest.raises(BabelclipError, match="is being written by process"):
            run(source, tmp_path / "out")
    finally:
        release()
    run(source, tmp_path / "out")


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("x"), lambda path: (path.mkdir(), (path / "a.txt").touch())]
)
def test_a_folder_that_holds_other_things_is_refused(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(BabelclipError, match="choose another"):
        run(make_source(tmp_path), tmp_path / "out")


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    rows = [
        {"id": "a", "text": "A dog", "lang": "en"},
        {"id": "b", "text": "", "lang": "en"},
        {"id": "c", "text": "Ein Hund", "lang": "de"},
        {"id": "d", "text": "none of it"},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = run(tmp_path / "c.jsonl", tmp_path / "out", to=["sv"], plan="all", keep_english=0)
    assert report.captions == 2
    assert report.skipped == {"another language": 1, "empty text": 1}
    assert report.languages["sv"].rejected == {"empty": 1}
    with pytest.raises(BabelclipError, match="line 2: empty text"):
        run(tmp_path / "c.jsonl", tmp_path / "strict", strict=True)


def test_a_shard_of_which_nothing_is_kept_has_no_file_and_is_finished(tmp_path, monkeypatch):
    rows = [{"id": str(n), "text": "none of it" if n < 30 else "A dog", "lang": "en"} for n in range(40)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"to": ["sv"], "plan": "all", "keep_english": 0}
    run(tmp_path / "c.jsonl", tmp_path / "out", **given)
    assert [path.name for path in (tmp_path / "out" / "translations" / "sv").iterdir()] == ["00001.parquet"]
    assert read_all(tmp_path / "out").ids == [f"{n}-sv" for n in range(30, 40)]
    monkeypatch.setattr(fake.FakeEngine, "translate", lambda *given: pytest.fail("translated again"))
    assert run(tmp_path / "c.jsonl", tmp_path / "out", **given).languages["sv"].rejected == {"empty": 30}


def test_more_languages_than_captions_leaves_some_without(tmp_path):
    report = run(make_source(tmp_path, 2), tmp_path / "out", to=["sv", "de", "fr", "fi"], keep_english=0)
    assert sum(one.planned for one in report.languages.values()) == 2
    assert len(read_all(tmp_path / "out")) == 2


def test_without_english_copies_there_is_a_warning(tmp_path, caplog):
    run(make_source(tmp_path, 5), tmp_path / "out", keep_english=0)
    assert "keep_english is 0" in caplog.text
    caplog.clear()
    run(make_source(tmp_path, 5), tmp_path / "other")
    assert caplog.text == ""


def test_the_shards_of_the_manifest_are_the_files(finished):
    _, out = finished
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    listed = {
        (lang, shard["block"]): (shard["rows"], shard["bytes"])
        for lang, shards in manifest["shards"].items()
        for shard in shards
    }
    there = {
        (path.parent.name, int(path.stem)): (pq.ParquetFile(path).metadata.num_rows, path.stat().st_size)
        for path in out.glob("translations/*/*.parquet")
    }
    assert listed == there
    assert len(there) == 8
