"""A `Clip` in mteb itself: only where mteb is installed, which the oracle job does in an environment of its own.

PYTHONPATH=. .oracles/mteb/bin/python -m pytest -q tests/evaluate/test_mteb_real.py
"""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.data.captions import Captions
from babelclip.evaluate.benchmarks.sets import Pictures, RetrievalSet
from babelclip.evaluate.metrics import score_queries
from babelclip.evaluate.mteb import MtebEncoder, retrieval_tasks
from babelclip.evaluate.relevance import same_group
from tests.conftest import draw_shape, make_clip

mteb = pytest.importorskip("mteb", reason="mteb is not installed here: the oracle job runs this in its environment")

COLOURS, SHAPES = ("red", "blue", "green", "yellow"), ("circle", "square", "triangle")
WORDS = {"en": "a {} {}", "de": "ein {} {}", "ja": "{} {}"}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> RetrievalSet:
    """Twelve pictures with two captions in each of three languages."""
    folder = tmp_path_factory.mktemp("pictures")
    ids, rows = [], []
    for colour in COLOURS:
        for shape in SHAPES:
            ids.append(f"{colour}-{shape}.png")
            draw_shape(colour, shape).save(folder / ids[-1])
            rows += [
                (text, lang, ids[-1])
                for lang, form in WORDS.items()
                for text in (form.format(colour, shape), f"{shape}, {colour}")
            ]
    texts, langs, images = zip(*rows, strict=True)
    captions = Captions.from_columns(text=list(texts), lang=list(langs), image=list(images))
    return RetrievalSet("xtd10", "test", captions, Pictures(tuple(ids), tuple(str(folder / one) for one in ids)))


def test_mteb_reaches_our_figures_and_encodes_each_picture_once(benchmark):
    clip = make_clip()
    encoder = MtebEncoder(clip, name="babelclip/tiny")
    tasks = retrieval_tasks(benchmark)
    assert [task.metadata.name for task in tasks] == ["XTD10T2IRetrieval", "XTD10I2TRetrieval"]
    told = mteb.evaluate(encoder, tasks, cache=None, raise_error=True)
    assert encoder.n_encoded == len(benchmark.pictures)
    pictures = clip.encode_image(list(benchmark.pictures.sources))
    every = np.array(benchmark.pictures.ids)
    images = benchmark.captions.table.column("image").to_pylist()
    for task, direction in zip(told.task_results, ("t2i", "i2t"), strict=True):
        scores = {one["hf_subset"]: one for one in task.scores["test"]}
        assert set(scores) == set(WORDS)
        for lang, theirs in scores.items():
            rows = [
                (t, i)
                for t, code, i in zip(benchmark.captions.texts, benchmark.captions.langs, images, strict=True)
                if code == lang
            ]
            texts, own = clip.encode_text([text for text, _ in rows]), np.array([image for _, image in rows])
            pair = (
                (texts, pictures, same_group(own, every))
                if direction == "t2i"
                else (pictures, texts, same_group(every, own))
            )
            ours = score_queries(*pair).summary()
            for k in (1, 5, 10):
                assert theirs[f"hit_rate_at_{k}"] == pytest.approx(ours[f"R@{k}"], abs=1e-5)
                assert theirs[f"recall_at_{k}"] == pytest.approx(ours[f"recall@{k}"], abs=1e-5)
            assert theirs["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=1e-5)
            assert theirs["map_at_100"] == pytest.approx(ours["MAP@100"], abs=1e-5)
            assert theirs["mrr_at_10"] == pytest.approx(ours["MRR@10"], abs=1e-5)
