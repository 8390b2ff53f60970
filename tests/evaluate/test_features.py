"""Pictures of a benchmark are encoded once: by content, by model, over languages and over runs."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate import features
from babelclip.evaluate.benchmarks.sets import Pictures
from babelclip.evaluate.features import encode_pictures, tower_key
from babelclip.store import EmbeddingStore
from tests.conftest import COLOURS, draw_shape, make_clip


@pytest.fixture
def pictures(tmp_path):
    """Eight files, and the first of them once more under another id."""
    paths = []
    for colour in COLOURS:
        for shape in ("circle", "square"):
            paths.append(tmp_path / f"{colour}-{shape}.png")
            draw_shape(colour, shape).save(paths[-1])
    return Pictures((*(path.stem for path in paths), "again"), (*map(str, paths), str(paths[0])))


@pytest.fixture
def opened(monkeypatch):
    """The pictures that were decoded, in order."""
    names = []
    original = features._read

    def counting(rules, first, picture):
        names.append(str(picture))
        return original(rules, first, picture)

    monkeypatch.setattr(features, "_read", counting)
    return names


@pytest.fixture
def forwards(monkeypatch):
    """How many pictures each forward pass had."""
    sizes = []
    original = features._forward
    monkeypatch.setattr(
        features, "_forward", lambda tower, pixels: sizes.append(len(pixels)) or original(tower, pixels)
    )
    return sizes


def test_vectors_are_those_of_the_model_in_the_order_of_the_set(pictures, tmp_path):
    clip = make_clip()
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        [encoded] = encode_pictures([clip], pictures, cache=cache)
        assert encoded.features == pytest.approx(clip.encode_image(list(pictures.sources)), abs=1e-6)
        assert encoded.kept.tolist() == list(range(9))
        assert encoded.notes() == []


def test_a_second_run_decodes_nothing_and_gives_the_same_bits(pictures, tmp_path, opened, forwards):
    [first] = encode_pictures([make_clip()], pictures, cache=tmp_path / "cache")
    assert (first.encoded, len(opened), sum(forwards)) == (8, 8, 8)
    [second] = encode_pictures([make_clip()], pictures, cache=tmp_path / "cache")
    assert (second.encoded, len(opened), sum(forwards)) == (0, 8, 8)
    assert second.features.tobytes() == first.features.tobytes()


def test_several_models_are_served_by_one_decoding(pictures, opened, forwards):
    clips = [make_clip(), make_clip(seed=5), make_clip()]
    encoded = encode_pictures(clips, pictures)
    assert len(opened) == 8
    assert sum(forwards) == 16  # the third is the first once more
    for clip, one in zip(clips, encoded, strict=True):
        assert one.features == pytest.approx(clip.encode_image(list(pictures.sources)), abs=1e-6)


def test_a_model_that_has_some_pictures_encodes_only_the_others(pictures, tmp_path, forwards):
    cache = tmp_path / "cache"
    encode_pictures([make_clip()], pictures.select([0, 1, 2]), cache=cache)
    both = encode_pictures([make_clip(), make_clip(seed=5)], pictures, cache=cache)
    assert [one.encoded for one in both] == [5, 8]
    assert sum(forwards) == 3 + 5 + 8


def test_a_changed_picture_or_model_is_encoded_anew(pictures, tmp_path):
    cache, clip = tmp_path / "cache", make_clip()
    [before] = encode_pictures([clip], pictures, cache=cache)
    draw_shape("yellow", "triangle", size=64).save(pictures.sources[3])
    [after] = encode_pictures([clip], pictures, cache=cache)
    assert after.encoded == 1
    assert not np.allclose(before.features[3], after.features[3])
    key = tower_key(clip.image, clip.space)
    other = make_clip()
    other.image.head.parameters().__next__().data[0, 0] += 1e-3
    assert tower_key(other.image, other.space) != key
    assert tower_key(make_clip().image, "another/space") != key
    assert tower_key(make_clip().image, clip.space) == key


def test_a_stopped_run_goes_on_where_it_was(pictures, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(features, "_BLOCK", 3)
    original, calls = features._encode_block, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(features, "_encode_block", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode_pictures([make_clip()], pictures, cache=tmp_path / "cache")
    [encoded] = encode_pictures([make_clip()], pictures, cache=tmp_path / "cache")
    assert encoded.encoded == 2
    assert len(opened) == 8
    [plain] = encode_pictures([make_clip()], pictures)
    assert encoded.features == pytest.approx(plain.features, abs=1e-6)


def test_pictures_that_cannot_be_read_are_counted_with_their_reason_or_stop(pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    mixed = Pictures(("gone", *pictures.ids, "broken"), (str(tmp_path / "gone.png"), *pictures.sources, str(broken)))
    [encoded] = encode_pictures([make_clip()], mixed, cache=tmp_path / "cache")
    assert encoded.kept.tolist() == list(range(1, 10))
    assert encoded.features.shape == (9, 16)
    assert sorted(encoded.skipped) == [0, 10]
    assert "does not exist" in encoded.skipped[0]
    assert "does not decode" in encoded.skipped[10]
    assert encoded.notes()[0].startswith("2 pictures could not be read")
    with pytest.raises(BabelclipError, match=r"gone\.png does not exist"):
        encode_pictures([make_clip()], mixed, strict=True)
    with pytest.raises(BabelclipError, match="None of the 1 pictures"):
        encode_pictures([make_clip()], mixed.select([0]))
    with pytest.raises(BabelclipError, match="0 pictures"):
        encode_pictures([make_clip()], mixed.select([]))


def test_a_cache_that_another_run_writes_is_not_waited_for(pictures, tmp_path, caplog):
    cache, clip = tmp_path / "cache", make_clip()
    path = cache / "evaluate" / tower_key(clip.image, clip.space)
    facts = {"space": clip.space, "model": path.name, "dim": 16, "dtype": "float32", "normalized": False}
    with EmbeddingStore.create(path, **facts, kind="image"):
        [encoded] = encode_pictures([clip], pictures, cache=cache)
    assert encoded.encoded == 8
    assert "vectors of this run are not kept" in caplog.text
    assert len(EmbeddingStore.open(path)) == 0


def test_a_model_without_pictures_is_named(pictures, tiny_clip):
    tiny_clip.image = None
    with pytest.raises(BabelclipError, match="without its picture tower"):
        encode_pictures([tiny_clip], pictures)


def test_processes_can_decode(pictures):
    [encoded] = encode_pictures([make_clip()], pictures, workers=1)
    assert encoded.features == pytest.approx(make_clip().encode_image(list(pictures.sources)), abs=1e-6)
