"""A mix gives its shares in every stretch, visits every row before one comes again, and is known by its position."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.data.captions import Captions
from babelclip.data.missing import find_missing
from babelclip.data.mix import Mix, MixSource, open_mix
from babelclip.data.mixer import Mixer, Source
from babelclip.data.permutation import mixed_key, mixed_keys, permuted
from babelclip.data.row_source import RowSource, write_row_source
from babelclip.data.schedule import Schedule
from babelclip.data.shares import group_shares
from babelclip.errors import BabelclipError
from babelclip.languages import UnknownLanguageError
from babelclip.store import EmbeddingStore

QUICK = settings(max_examples=60, deadline=None)


def originals(n: int = 20) -> Captions:
    return Captions.from_columns(
        id=[f"c{i}" for i in range(n)], text=[f"caption number {i}" for i in range(n)], lang="en"
    )


def translations(counts: dict[str, int]) -> Captions:
    rows = [(lang, i) for lang, n in counts.items() for i in range(n)]
    return Captions.from_columns(
        id=[f"c{i}-{lang}" for lang, i in rows],
        source_id=[f"c{i}" for _, i in rows],
        text=[f"{lang}: caption number {i}" for lang, i in rows],
        lang=[lang for lang, _ in rows],
    )


def make_mixer(**given: object) -> Mixer:
    sources = [Source("own", originals()), Source("mt", translations({"sv": 13, "de": 7, "zh-Hant": 1}))]
    return Mixer(sources, **given)


def share_of(mixer: Mixer) -> dict[tuple[str, str], float]:
    return {(group.source, group.lang): share for group, share in zip(mixer.groups, mixer.shares, strict=True)}


# -- orders ----------------------------------------------------------------------------------------------------------


@QUICK
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_an_order_has_every_row_once(n: int, seed: int):
    assert np.array_equal(np.sort(permuted(np.arange(n), n, mixed_key(seed))), np.arange(n))


@QUICK
@given(n=st.integers(1, 2**40), seed=st.integers(0, 2**32), data=st.data())
def test_any_place_of_an_order_is_computed_alone(n: int, seed: int, data: st.DataObject):
    places = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True))
    rows = permuted(places, n, mixed_key(seed))
    assert len(set(rows.tolist())) == len(places)
    assert rows.min() >= 0
    assert rows.max() < n
    assert [permuted([place], n, mixed_key(seed))[0] for place in places] == rows.tolist()


def test_orders_of_many_sizes_and_keys_are_computed_together():
    sizes, numbers = np.array([1, 2, 5, 4000, 70_000]), np.array([3, 0, 9, 1, 2])
    keys = mixed_keys(np.array([mixed_key(i) for i in range(5)], np.uint64), numbers)
    places = np.array([0, 1, 4, 3999, 12])
    together = permuted(places, sizes, keys)
    assert together.tolist() == [int(permuted([places[i]], int(sizes[i]), keys[i])[0]) for i in range(5)]


def test_every_order_of_four_rows_is_about_equally_likely():
    keys = np.repeat(mixed_keys(mixed_key(1), np.arange(2400)), 4)
    seen = Counter(map(tuple, permuted(np.tile(np.arange(4), 2400), 4, keys).reshape(-1, 4).tolist()))
    assert len(seen) == 24
    assert 60 < min(seen.values())
    assert max(seen.values()) < 140


def test_neighbours_in_an_order_and_places_in_two_orders_have_nothing_to_do_with_each_other():
    first, second = (permuted(np.arange(20_000), 20_000, mixed_key(seed)).astype(float) for seed in (1, 2))
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first, np.arange(20_000))[0, 1]) < 0.03


# -- schedules -------------------------------------------------------------------------------------------------------


@QUICK
@given(
    shares=st.lists(st.floats(1e-7, 1.0), min_size=1, max_size=30),
    start=st.integers(0, 10**13),
    count=st.integers(0, 400),
)
def test_a_schedule_counts_what_it_gives_and_keeps_its_shares(shares: list[float], start: int, count: int):
    schedule = Schedule(shares, list(range(len(shares))))
    assert schedule.shares() == pytest.approx(np.array(shares) / sum(shares), abs=1e-8)
    before, after = schedule.counts(start), schedule.counts(start + count)
    assert after.sum() == start + count
    places = []
    for stretch in schedule.between(start, start + count):
        assert stretch.first == before[stretch.kind]
        assert len(stretch.places) == after[stretch.kind] - before[stretch.kind]
        places += stretch.places.tolist()
    assert sorted(places) == list(range(count))
    assert np.abs((after - before) - count * schedule.shares()).max() < 4


@QUICK
@given(shares=st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=12))
def test_after_any_number_of_positions_a_kind_is_off_by_less_than_two(shares: list[float]):
    schedule = Schedule(shares, list(range(len(shares))))
    worst = max(np.abs(schedule.counts(n) - n * schedule.shares()).max() for n in range(150))
    assert worst < 2


# -- shares ----------------------------------------------------------------------------------------------------------


def shares_of(rows: dict[str, int], **more: object) -> dict[str, float]:
    settings = {"temperature": 1.0, "english_share": 0.1, "factors": {}, "max_repeats": None, **more}
    shares = group_shares(np.array(list(rows.values())), np.ones(len(rows)), list(rows), **settings)
    return dict(zip(rows, shares.tolist(), strict=True))


def test_temperature_one_keeps_the_proportions_and_a_large_one_makes_languages_equal():
    rows = {"en": 500, "sv": 900, "de": 90, "cy": 10}
    assert shares_of(rows) == pytest.approx({"en": 0.1, "sv": 0.81, "de": 0.081, "cy": 0.009})
    assert shares_of(rows, temperature=1e9) == pytest.approx({"en": 0.1, "sv": 0.3, "de": 0.3, "cy": 0.3})


def test_temperature_is_the_exponent_of_mbert_and_xlm_r():
    rows = {"en": 1, "sv": 900, "de": 90}
    of_sv, of_de = 900**0.3, 90**0.3
    shares = shares_of(rows, temperature=1 / 0.3)
    assert shares["sv"] == pytest.approx(0.9 * of_sv / (of_sv + of_de))
    assert shares["de"] == pytest.approx(0.9 * of_de / (of_sv + of_de))


def test_a_tiny_temperature_does_not_overflow():
    assert shares_of({"en": 1, "sv": 10**7, "de": 10}, temperature=1e-3) == pytest.approx(
        {"en": 0.1, "sv": 0.9, "de": 0.0}
    )


def test_a_cap_on_repeats_gives_what_lies_above_to_the_others():
    rows = {"en": 1000, "sv": 1000, "cy": 10}
    free = shares_of(rows, temperature=1e9)
    assert free["cy"] * 2010 / 10 > 90
    capped = shares_of(rows, temperature=1e9, max_repeats=3)
    assert capped["cy"] * 2010 / 10 == pytest.approx(3)
    assert capped == pytest.approx({"en": 0.1, "sv": 0.9 - 30 / 2010, "cy": 30 / 2010})


@QUICK
@given(
    rows=st.lists(st.integers(1, 10**6), min_size=2, max_size=12),
    temperature=st.floats(0.1, 50),
    english_share=st.floats(0.001, 0.999),
    cap=st.floats(1, 20),
)
def test_with_a_cap_no_row_is_given_more_often_and_nothing_is_lost(
    rows: list[int], temperature: float, english_share: float, cap: float
):
    langs = ["en", "sv", "en-GB", "de", "fr", "fi", "da", "pl", "cs", "it", "es", "pt"][: len(rows)]
    counts = np.array(rows)
    shares = group_shares(
        counts, np.ones(len(rows)), langs, temperature=temperature, english_share=english_share, factors={},
        max_repeats=cap,
    )  # fmt: skip
    assert shares.sum() == pytest.approx(1)
    assert (shares * counts.sum() / counts).max() <= cap * (1 + 1e-9)


def test_the_weight_of_a_source_counts_its_rows_and_a_factor_scales_a_language():
    sources = [
        Source("own", originals()),
        Source("mt", translations({"sv": 10, "de": 10}), weight=3),
        Source("human", translations({"sv": 30})),
        Source("unused", translations({"fr": 5}), weight=0),
    ]
    shares = share_of(Mixer(sources, english_share=0.5))
    assert shares == pytest.approx(
        {("own", "en"): 0.5, ("mt", "de"): 0.5 / 3, ("mt", "sv"): 0.5 / 3, ("human", "sv"): 0.5 / 3}, abs=1e-8
    )
    scaled = share_of(Mixer(sources, english_share=0.5, languages={"swe_Latn": 0.5}))
    assert scaled["mt", "de"] == pytest.approx(0.25)
    assert ("mt", "de") not in share_of(Mixer(sources, languages={"de": 0}))


# -- the mix ---------------------------------------------------------------------------------------------------------


@QUICK
@given(start=st.integers(0, 10**9), cuts=st.lists(st.integers(0, 60), max_size=6), seed=st.integers(0, 99))
def test_a_mix_that_goes_on_at_any_position_equals_one_that_never_stopped(start: int, cuts: list[int], seed: int):
    mixer = make_mixer(temperature=2.0, seed=seed)
    whole = mixer.rows(start, sum(cuts)).to_pylist()
    at, pieces = start, []
    for count in cuts:
        pieces += make_mixer(temperature=2.0, seed=seed).rows(at, count).to_pylist()
        at += count
    assert pieces == whole


@QUICK
@given(english=st.floats(0.01, 0.9), temperature=st.floats(0.3, 10), start=st.integers(0, 10**6), rounds=st.just(2))
def test_every_row_is_visited_once_before_one_comes_again(english: float, temperature: float, start: int, rounds: int):
    mixer = make_mixer(english_share=english, temperature=temperature)
    drawn = mixer.draw(0, 3000)
    for number, group in enumerate(mixer.groups):
        rows = drawn.row[drawn.group == number]
        visits = drawn.visit[drawn.group == number]
        for place in range(0, len(rows) - group.rows + 1, group.rows):
            assert sorted(rows[place : place + group.rows].tolist()) == list(range(group.rows))
            assert set(visits[place : place + group.rows].tolist()) == {place // group.rows}


def test_each_visit_of_a_source_has_another_order():
    mixer = make_mixer(english_share=0.5)
    drawn = mixer.draw(0, 400)
    rows = drawn.row[drawn.group == 0]
    orders = [tuple(rows[place : place + 20].tolist()) for place in range(0, 200, 20)]
    assert len(set(orders)) == 10
    assert tuple(range(20)) not in orders


def test_one_seed_repeats_and_two_seeds_differ():
    first = make_mixer(seed=1).rows(0, 200)
    assert make_mixer(seed=1).rows(0, 200).equals(first)
    assert not make_mixer(seed=2).rows(0, 200).equals(first)
    assert make_mixer(seed=1).fingerprint == make_mixer(seed=1).fingerprint != make_mixer(seed=2).fingerprint


@QUICK
@given(start=st.integers(0, 10**9), count=st.integers(1, 500))
def test_the_report_counts_what_is_given(start: int, count: int):
    mixer = make_mixer(temperature=3.0)
    realised = Counter((row["source"], row["lang"]) for row in mixer.rows(start, count).to_pylist())
    report = mixer.report(start, count)
    assert {(line.source, line.lang): line.realised for line in report if line.realised} == realised
    assert sum(line.expected for line in report) == pytest.approx(count)
    assert all(abs(line.realised - line.expected) < 4 for line in report)
    assert all(line.repeats == line.realised / line.rows for line in report)
    english = sum(line.realised for line in report if line.lang == "en")
    assert abs(english - 0.1 * count) <= 1 + 1e-6


def test_the_columns_say_source_ids_text_and_language():
    rows = make_mixer().rows(0, 100).to_pylist()
    own = next(row for row in rows if row["source"] == "own")
    assert own["lang"] == "en"
    assert own["source_id"] == own["id"]
    swedish = next(row for row in rows if row["lang"] == "sv")
    assert (swedish["source"], swedish["id"]) == ("mt", swedish["source_id"] + "-sv")
    assert make_mixer().rows(7, 0).num_rows == 0


def test_no_english_warns_and_says_why(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        mixer = make_mixer(english_share=0.0)
    assert {group.lang for group in mixer.groups} == {"sv", "de", "zh-Hant"}
    assert "forgets" in caplog.text
    assert "AltCLIP" in caplog.text
    caplog.clear()
    make_mixer(english_share=0.05)
    assert caplog.text == ""


def test_a_cap_that_changes_the_english_share_is_told(caplog: pytest.LogCaptureFixture):
    sources = [Source("own", originals(2)), Source("mt", translations({"sv": 18}))]
    mixer = Mixer(sources, english_share=0.9, max_repeats=2)
    assert mixer.shares.tolist() == pytest.approx([0.2, 0.8])
    assert "max_repeats makes it 0.2" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 0.0}, "temperature=0.0.*above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"english_share": -0.1}, "english_share=-0.1.*from 0 to 1"),
        ({"english_share": 1.5}, "english_share=1.5"),
        ({"english_share": float("nan")}, "english_share=nan"),
        ({"max_repeats": 0.5}, "max_repeats=0.5.*1 or more"),
        ({"languages": {"fr": 2.0}}, "'fr' has a factor, but no source.*add captions"),
        ({"languages": {"sv": -1.0}}, "'sv' has the factor -1"),
    ],
)
def test_settings_outside_their_limits_are_refused(given: dict[str, object], words: str):
    with pytest.raises(BabelclipError, match=words):
        make_mixer(**given)


def test_an_unknown_language_is_refused():
    with pytest.raises(UnknownLanguageError):
        make_mixer(languages={"swedisch": 2.0})


def test_sources_that_cannot_be_mixed_are_refused():
    own, mt = Source("own", originals()), Source("mt", translations({"sv": 3}))
    empty = Captions(originals().table.slice(0, 0))
    for sources, words in (
        ([], "no sources"),
        ([own, Source("own", originals())], "names of sources occur twice, first 'own'"),
        ([own, Source("mt", mt.rows, weight=-1)], "weight -1"),
        ([own, Source("mt", mt.rows, weight=float("inf"))], "weight inf"),
        ([Source("own", own.rows, weight=0), Source("mt", mt.rows, weight=0)], "all 2 sources have weight 0"),
        ([own, Source("none", empty)], "'none' is empty"),
        ([mt], r"no source of the mix has rows in English \(there are: sv\).*english_share=0"),
        ([own], "rows in no other language.*english_share=1"),
    ):
        with pytest.raises(BabelclipError, match=words):
            Mixer(sources)
    assert len(Mixer([own], english_share=1)) == 20
    with pytest.raises(BabelclipError, match="both >= 0"):
        make_mixer().rows(-1, 4)


# -- rows on disk ----------------------------------------------------------------------------------------------------


def test_rows_on_disk_are_the_rows_in_memory(tmp_path: Path):
    captions = translations({"sv": 40, "de": 11, "th": 3})
    captions = Captions(captions.table.take(np.random.default_rng(0).permutation(len(captions))))
    parts = [Captions(captions.table.slice(start, 7)) for start in range(0, len(captions), 7)]
    mapped = write_row_source(iter(parts), tmp_path / "rows")
    memory = RowSource.from_captions(captions)
    assert mapped.counts == memory.counts == {"de": 11, "sv": 40, "th": 3}
    assert mapped.fingerprint == memory.fingerprint
    own = Source("own", originals())
    rows = [Mixer([own, Source("mt", source)], seed=3).rows(9, 300) for source in (mapped, memory)]
    assert rows[0].equals(rows[1])
    copied = pickle.loads(pickle.dumps(Mixer([own, Source("mt", mapped)], seed=3)))
    assert copied.rows(9, 300).equals(rows[0])


def test_rows_of_many_writes_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("babelclip.data.row_source._AT_ONCE", 3)
    captions = Captions.from_columns(text=["é", "日本語", "x", "a longer one", "y", "z", "å"], lang="sv")
    parts = [Captions(captions.table.slice(start, 2)) for start in range(0, 7, 2)]
    mapped = write_row_source(iter(parts), tmp_path / "rows")
    assert mapped.fingerprint == RowSource.from_captions(captions).fingerprint
    assert mapped.take("sv", np.array([6, 1, 1, 0])).to_pylist()[2::3] == ["å", "日本語", "日本語", "é"]


def test_other_texts_have_another_fingerprint():
    same = [Captions.from_columns(id=["1", "2"], text=list(texts), lang="sv") for texts in (("ab", "c"), ("a", "bc"))]
    assert len({RowSource.from_captions(captions).fingerprint for captions in same}) == 2


def test_damaged_rows_and_other_folders_are_refused(tmp_path: Path):
    write_row_source([originals()], tmp_path / "rows")
    with (tmp_path / "rows/en/rows.bytes").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BabelclipError, match=r"rows\.bytes has .*write them again"):
        RowSource.open(tmp_path / "rows")
    with pytest.raises(BabelclipError, match="holds no rows"):
        RowSource.open(tmp_path)
    with pytest.raises(BabelclipError, match="holds other things"):
        write_row_source([originals()], tmp_path)
    with pytest.raises(BabelclipError, match="no captions to write"):
        write_row_source([], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_write_that_fails_leaves_the_old_rows(tmp_path: Path):
    write_row_source([originals(3)], tmp_path / "rows")

    def parts():
        yield originals(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_row_source(parts(), tmp_path / "rows")
    assert len(RowSource.open(tmp_path / "rows")) == 3


# -- vectors ---------------------------------------------------------------------------------------------------------


def vector_of(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(8).astype(np.float32)


def test_shuffled_dropped_and_doubled_rows_meet_the_vector_of_their_own_caption(tmp_path: Path):
    rng = np.random.default_rng(7)
    own, translated = originals(60), translations({"sv": 60, "de": 45, "ja": 20})
    # The store in one order, the captions in another, rows lost, and some of them there twice.
    with EmbeddingStore.create(tmp_path / "store", space="s", model="m", dim=8, dtype="float32", normalized=False) as s:
        for part in np.array_split(rng.permutation(60), 4):
            s.append([own.ids[i] for i in part], np.stack([vector_of(own.texts[i]) for i in part]))
    store = EmbeddingStore.open(tmp_path / "store")
    kept = rng.permutation(len(translated))[:90]
    doubled = rng.permutation(len(translated))[:30]
    sources = [
        Source("own", Captions(own.table.take(rng.permutation(60)[:50]))),
        Source("kept", write_row_source([Captions(translated.table.take(kept))], tmp_path / "rows")),
        Source("doubled", Captions(translated.table.take(doubled)), weight=2),
    ]
    mixer = Mixer(sources, temperature=2.0, seed=5)
    assert find_missing(mixer, store).lacking == {}
    rows = mixer.rows(1000, 2000).to_pylist()
    vectors = store.gather(store.positions([row["source_id"] for row in rows]))
    for row, vector in zip(rows, vectors, strict=True):
        # A translation says in its text which caption it is one of.
        assert np.array_equal(vector, vector_of(row["text"].rpartition(": ")[2]))
    assert {row["source"] for row in rows} == {"own", "kept", "doubled"}


def test_missing_vectors_are_counted_by_language_and_named(tmp_path: Path):
    own, translated = originals(10), translations({"sv": 10, "de": 4})
    with EmbeddingStore.create(tmp_path / "store", space="s", model="m", dim=2, normalized=False) as store:
        store.append([f"c{i}" for i in range(8)], np.ones((8, 2)))
    store = EmbeddingStore.open(tmp_path / "store")
    mixer = Mixer([Source("own", own), Source("mt", translated)])
    for rows in (mixer, Captions.concat([own, translated]), iter([own, translated])):
        missing = find_missing(rows, store)
        assert missing.rows == {"de": 4, "en": 10, "sv": 10}
        assert missing.lacking == {"en": 2, "sv": 2}
        assert missing.ids == ["c8", "c9"]
    with pytest.raises(BabelclipError, match=r"4 of 24 rows have no vector.*en 2 of 10, sv 2 of 10.*embed these"):
        missing.require_none(store)
    find_missing(translations({"sv": 8}), store).require_none(store)


# -- the table -------------------------------------------------------------------------------------------------------


def test_a_mix_goes_to_a_table_and_back():
    mix = Mix(
        (MixSource("a.jsonl", "a", 2.0), MixSource("b/", "b")), temperature=2.0, english_share=0.2, max_repeats=4.0,
        languages={"sv": 2.0}, seed=3,
    )  # fmt: skip
    assert Mix.from_table(json.loads(json.dumps(mix.to_table()))) == mix
    assert Mix.from_table({"sources": [{"captions": "x"}]}) == Mix((MixSource("x", "x"),))
    assert "max_repeats" not in Mix().to_table()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"temprature": 2}, "'temprature' in mix is not known.*'temperature'"),
        ({"temperature": "2"}, "mix.temperature = '2' is of type str.*a number"),
        ({"temperature": 0}, "mix.temperature = 0 is too small.*above 0"),
        ({"seed": 1.5}, "a whole number"),
        ({"seed": True}, "of type bool"),
        ({"languages": {"sv": -1}}, "mix.languages.sv = -1 is too small"),
        ({"languages": ["sv"]}, "no table"),
        ({"sources": "a.jsonl"}, "no list of tables"),
        ({"sources": [{"weight": 1}]}, r"sources\[0\] names no captions"),
        ({"sources": [{"captions": "a", "weigth": 1}]}, "'weigth' in mix.sources.*'weight'"),
        ({"sources": [{"captions": "a", "weight": -1}]}, r"sources\[0\].weight = -1 is too small"),
        ({"sources": [{"captions": 3}]}, "is no text"),
    ],
)
def test_a_table_with_mistakes_is_refused_by_name(table: dict[str, object], words: str):
    with pytest.raises(BabelclipError, match=words):
        Mix.from_table(table)


def test_a_mix_of_files_is_opened_in_memory_or_laid_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from babelclip.data.captions import write_captions

    write_captions(originals(), tmp_path / "own.parquet")
    write_captions(translations({"sv": 12, "de": 5}), tmp_path / "mt.jsonl")
    mix = Mix(tuple(MixSource(str(tmp_path / name), name) for name in ("own.parquet", "mt.jsonl")), seed=4)
    memory = open_mix(mix)
    mapped = open_mix(mix, folder=tmp_path / "rows")
    assert mapped.fingerprint == memory.fingerprint
    assert mapped.rows(0, 200).equals(memory.rows(0, 200))
    written = []
    real = write_row_source
    monkeypatch.setattr("babelclip.data.mix.write_row_source", lambda *a, **k: (written.append(a[1]), real(*a, **k))[1])
    assert open_mix(mix, folder=tmp_path / "rows").fingerprint == memory.fingerprint
    assert written == []
    write_captions(translations({"sv": 13, "de": 5}), tmp_path / "mt.jsonl")
    assert open_mix(mix, folder=tmp_path / "rows").fingerprint != memory.fingerprint
    assert [path.name for path in written] == ["001"]


def test_rows_of_captions_in_object_storage_are_laid_out_anew_when_these_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from babelclip import storage
    from babelclip.data.captions import write_captions

    # What stands in the cache for an address has its size and time.
    for name in ("shadow", "shadowed"):
        monkeypatch.setattr(storage, name, lambda source: tmp_path / Path(source).name)
    mix = Mix((MixSource("s3://bucket/c.jsonl", "c"),), english_share=0.5)
    for count in (3, 4):
        write_captions(Captions.concat([originals(), translations({"sv": count})]), tmp_path / "c.jsonl")
        assert len(open_mix(mix, folder=tmp_path / "rows")) == 20 + count
