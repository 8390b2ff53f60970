"""A `Clip` answers what mteb asks; mteb itself is not needed here, only its manner of asking."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from PIL import Image

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.evaluate.benchmarks.sets import Pictures, RetrievalSet
from babelclip.evaluate.mteb import MtebEncoder, _picture_rows, _split, retrieval_tasks
from tests.conftest import draw_shape, make_clip

PICTURES = [draw_shape(colour, shape) for colour in ("red", "blue", "green") for shape in ("circle", "square")]


def batches(column, items, size=2):
    """Batches as mteb's loader gives them: dictionaries of columns, ids beside."""
    for start in range(0, len(items), size):
        part = items[start : start + size]
        yield {"id": [f"corpus-{start + i}" for i in range(len(part))], column: part}


def ask(encoder, inputs, subset="en"):
    return encoder.encode(
        inputs, task_metadata=object(), hf_split="test", hf_subset=subset, prompt_type="document", batch_size=8
    )


def test_vectors_are_those_of_the_model_in_order(tiny_clip):
    encoder = MtebEncoder(tiny_clip)
    texts = ["two dogs", "a cat", "två hundar"]
    assert np.allclose(ask(encoder, batches("text", texts)), tiny_clip.encode_text(texts), atol=1e-6)
    assert np.allclose(ask(encoder, batches("image", PICTURES)), tiny_clip.encode_image(PICTURES), atol=1e-6)
    assert ask(encoder, []).shape == (0, tiny_clip.embed_dim)


def test_a_corpus_is_encoded_once_over_languages_and_tasks(tiny_clip):
    encoder = MtebEncoder(tiny_clip)
    first = ask(encoder, batches("image", PICTURES), "en")
    # Ids of the next language are the same, and the pictures come as new objects.
    again = ask(encoder, batches("image", [picture.copy() for picture in PICTURES[::-1]]), "de")
    assert encoder.n_encoded == len(PICTURES)
    assert np.array_equal(again, first[::-1])
    ask(encoder, batches("image", [*PICTURES, *PICTURES], size=12))
    assert encoder.n_encoded == len(PICTURES)
    encoder.forget()
    ask(encoder, batches("image", PICTURES))
    assert encoder.n_encoded == 2 * len(PICTURES)


def test_equal_ids_of_two_sets_do_not_mix_their_pictures(tiny_clip):
    encoder = MtebEncoder(tiny_clip)
    one, other = ask(encoder, batches("image", PICTURES[:1])), ask(encoder, batches("image", PICTURES[1:2]))
    assert not np.allclose(one, other)


def test_nothing_is_kept_where_that_is_asked_for(tiny_clip):
    encoder = MtebEncoder(tiny_clip, keep_images=False)
    for _ in range(2):
        ask(encoder, batches("image", PICTURES))
    assert encoder.n_encoded == 2 * len(PICTURES)


def test_an_item_with_text_and_picture_is_the_sum_of_both(tiny_clip):
    encoder = MtebEncoder(tiny_clip)
    both = ask(encoder, [{"text": ["a cat"], "image": PICTURES[:1]}])
    total = tiny_clip.encode_text(["a cat"]) + tiny_clip.encode_image(PICTURES[:1])
    assert np.allclose(both, total / np.linalg.norm(total), atol=1e-6)
    with pytest.raises(BabelclipError, match=r"audio.*'text' and 'image'"):
        ask(encoder, [{"audio": [1]}])


def test_similarity_is_the_cosine_whatever_the_lengths(tiny_clip):
    encoder = MtebEncoder(tiny_clip)
    a, b = np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 5.0]])
    assert np.allclose(encoder.similarity(a, b), [[0.5**0.5, 0], [0.5**0.5, 1]])
    assert np.allclose(encoder.similarity_pairwise(a, b), [0.5**0.5, 1])


def test_without_mteb_the_extra_is_named(tiny_clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    monkeypatch.setitem(sys.modules, "mteb.abstasks.retrieval", None)
    with pytest.raises(MissingExtraError, match=r"babelclip\[mteb\]"):
        _ = MtebEncoder(tiny_clip).mteb_model_meta
    with pytest.raises(BabelclipError, match="'t2i', 'i2t' or both"):
        retrieval_tasks(object(), directions=["text"])


def test_tasks_ask_what_babelclip_asks(tmp_path):
    pytest.importorskip("datasets")
    for name in "abc":
        PICTURES[0].save(tmp_path / f"{name}.png")
    captions = Captions.from_columns(text=["dog", "dog", "cat", "ko"], lang="zh zh zh sv".split(), image=list("abca"))
    pictures = Pictures(tuple("abc"), tuple(str(tmp_path / f"{name}.png") for name in "abc"))
    several = RetrievalSet("mine", "test", captions, pictures, text_numbers=np.array([0, 0, 1, 2]))
    rows = _picture_rows(several)
    t2i, i2t = (_split(several, "zh", direction, rows) for direction in ("t2i", "i2t"))
    assert (t2i["queries"]["text"][:], t2i["corpus"]["id"][:]) == (["dog", "cat"], ["pa", "pb", "pc"])
    assert t2i["relevant_docs"] == {"c0": {"pa": 1, "pb": 1}, "c1": {"pc": 1}}
    assert i2t["relevant_docs"] == {"pa": {"c0": 1}, "pb": {"c0": 1}, "pc": {"c1": 1}}
    assert _split(several, "sv", "i2t", rows)["queries"]["id"][:] == ["pa"]
    own = dataclasses.replace(several, corpora={"sv": np.array([0, 2])}, groups=("x", "y", "x"))
    task = _split(own, "sv", "t2i", rows)
    assert (task["corpus"]["id"][:], task["relevant_docs"]) == (["pa", "pc"], {"c2": {"pa": 1, "pc": 1}})


def test_the_meta_names_an_organisation_and_the_towers_that_are_there(tiny_clip, monkeypatch):
    import types

    class Meta:
        @staticmethod
        def create_empty(overwrites):
            return overwrites

    monkeypatch.setitem(sys.modules, "mteb", types.ModuleType("mteb"))
    monkeypatch.setitem(sys.modules, "mteb.models", types.SimpleNamespace(ModelMeta=Meta))
    meta = MtebEncoder(tiny_clip, name="mine").mteb_model_meta
    assert meta["name"] == "babelclip/mine"
    assert meta["modalities"] == ["text", "image"]
    assert meta["embed_dim"] == tiny_clip.embed_dim
    alone = make_clip()
    alone.image = None
    assert MtebEncoder(alone, name="a/b").mteb_model_meta["modalities"] == ["text"]


def test_pictures_of_equal_pixels_and_other_shape_are_told_apart(tiny_clip):
    wide, high = Image.new("RGB", (8, 2)), Image.new("RGB", (2, 8))
    encoder = MtebEncoder(tiny_clip)
    ask(encoder, batches("image", [wide, high]))
    assert encoder.n_encoded == 2
