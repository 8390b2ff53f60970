"""Captions to a store: every caption once, in parts, through kills, and the same vectors whatever the way."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from babelclip import progress
from babelclip.data import embed as module
from babelclip.data.captions import Captions, write_captions
from babelclip.data.embed import embed_captions, embed_file
from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore
from tests.conftest import make_clip


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    monkeypatch.setattr("babelclip.data.embed_shard._AT_ONCE", 6)


def make_captions(count=90, first=0):
    rows = range(first, first + count)
    langs = ["en" if row % 3 else "sv" for row in rows]
    return Captions.from_columns(text=[f"a dog {row % 40}" for row in rows], lang=langs, id=[f"c{row}" for row in rows])


def shard_rows(store):
    return [len(part) for part in store.vectors()]


class Counting:
    """A clip that counts the texts it encodes, and can stop like a killed process after some."""

    def __init__(self, clip, monkeypatch, stop_after=None):
        self.texts, encode = [], clip.text.encode

        def counted(texts, *given, **settings):
            if stop_after is not None and len(self.texts) >= stop_after:
                raise KeyboardInterrupt
            self.texts += texts
            return encode(texts, *given, **settings)

        monkeypatch.setattr(clip.text, "encode", counted)


@pytest.mark.parametrize("rows", [5, 20, 1000])
def test_parts_of_any_size_make_the_same_store(tmp_path, rows):
    captions, clip = make_captions(), make_clip()
    write_captions(captions, tmp_path / "c.jsonl")
    whole = embed_captions(clip, captions, tmp_path / "whole", dtype="float32")
    store = embed_captions(clip, open_captions(tmp_path / "c.jsonl", rows=rows), tmp_path / "parts", dtype="float32")
    assert store.ids == whole.ids == captions.ids
    assert shard_rows(store) == shard_rows(whole) == [16, 16, 16, 16, 16, 10]
    np.testing.assert_array_equal(store.read(), whole.read())
    np.testing.assert_allclose(store.read(), clip.encode_text(captions.texts, normalize=False), atol=1e-5)


@pytest.mark.parametrize("stop", [0, 1, 13, 30, 37])
def test_what_was_written_before_a_stop_is_never_encoded_again(tmp_path, monkeypatch, stop):
    captions = make_captions()
    write_captions(captions, tmp_path / "c.jsonl")
    whole = embed_file(make_clip(), tmp_path / "c.jsonl", tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        clip = make_clip()
        Counting(clip, patched, stop)
        embed_file(clip, tmp_path / "c.jsonl", tmp_path / "cut")
    there = EmbeddingStore.open(tmp_path / "cut").rows
    clip = make_clip()
    counted = Counting(clip, monkeypatch)
    store = embed_file(clip, tmp_path / "c.jsonl", tmp_path / "cut")
    done = there["repeat"].to_pylist().count(False) if len(there) else 0
    assert len(counted.texts) == 40 - done
    for number in range(len(shard_rows(whole))):
        for name in (f"vectors/{number:05d}.npy", f"rows/{number:05d}.parquet"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "cut" / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()
    assert store.verify() == []


def test_a_longer_file_another_file_and_another_order_add_only_what_is_new(tmp_path, monkeypatch):
    clip = make_clip()
    embed_captions(clip, make_captions(20), tmp_path / "s")
    counted = Counting(clip, monkeypatch)
    # The texts of 50 to 53 are those of 10 to 13.
    backwards = Captions(make_captions(33).table.take(list(range(32, -1, -1))))
    store = embed_captions(clip, iter([backwards, make_captions(4, first=50)]), tmp_path / "s")
    assert store.ids == [f"c{row}" for row in [*range(20), *range(32, 19, -1), *range(50, 54)]]
    assert len(counted.texts) == 13
    embed_captions(clip, make_captions(33), tmp_path / "s")
    assert len(counted.texts) == 13


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("again", [0, 37])
def test_an_id_of_two_parts_is_an_error_after_a_stop_too(tmp_path, again, resumed):
    parts = [make_captions(20), make_captions(20, first=20), make_captions(1, first=again)]
    if resumed:
        embed_captions(make_clip(), parts[:1], tmp_path / "s")
    with pytest.raises(BabelclipError, match=rf"1 ids occur more than once in the captions, first \['c{again}'\]"):
        embed_captions(make_clip(), parts, tmp_path / "s")
    assert EmbeddingStore.open(tmp_path / "s").verify() == []


def test_a_line_that_strict_refuses_is_met_where_it_lies_and_the_rows_before_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("babelclip.data.parts.ROWS", 10)
    lines = [json.dumps({"text": f"t{n}", "lang": "en"}) for n in range(40)]
    lines[25] = '{"text": ""}'
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert len(embed_file(make_clip(), tmp_path / "c.jsonl", tmp_path / "all")) == 39
    with pytest.raises(BabelclipError, match="line 26: empty text"):
        embed_file(make_clip(), tmp_path / "c.jsonl", tmp_path / "s", strict=True)


def test_a_killed_process_goes_on_to_the_same_store(tmp_path):
    """SIGKILL at random moments; killed_embed.py takes more of them by hand."""
    command = [sys.executable, "-m", "tests.data.killed_embed", str(tmp_path), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equal"]
    assert found["encoded"] <= found["captions"] + found["kills"] * found["lost_at_most"]


def test_shards_are_as_large_as_asked_for(tmp_path):
    captions = make_captions(40)
    assert shard_rows(embed_captions(make_clip(), captions, tmp_path / "s", shard_rows=25)) == [25, 15]
    with pytest.raises(BabelclipError, match="give 1 or more"):
        embed_captions(make_clip(), captions, tmp_path / "t", shard_rows=-1)


# -- the bar ---------------------------------------------------------------------------------------------------------


def test_speed_counts_work_and_not_what_was_there(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    speed = progress.Speed()
    now[0] = 50.0
    assert speed.step(10**6, 0) == (0.0, 0.0)
    now[0] = 52.0
    assert speed.step(100, 100) == (50.0, 50.0)
    assert speed.step(900, 0) == (50.0, 500.0)  # filtered rows take no time, and the end comes nearer
    for _ in range(200):
        now[0] += 1.0
        latest = speed.step(7, 7)
    assert latest == (7.0, 7.0)


@pytest.mark.parametrize("total", [None, 30])
def test_the_bar_shows_texts_a_second_and_the_time_left(monkeypatch, total):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with progress.progress_bar("Vectors", total, shown=True, unit="texts") as advance:
        advance(10, 0)
        progress.time.sleep(0.01)
        advance(5)
        progress.time.sleep(0.15)
    shown = stream.getvalue()
    assert "texts/s" in shown
    assert ("left" in shown) == (total is not None)
    assert [progress._clock(seconds) for seconds in (5, 3661, 90 * 3600)] == ["0:00:05", "1:01:01", "3 days"]
