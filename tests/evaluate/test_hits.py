"""What every query reached survives the way through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.hits import pack_hits, unpack_hits


def test_hits_and_clusters_come_back_from_json():
    random = np.random.default_rng(0)
    hits = {"R@1": random.integers(0, 2, 5000).astype(float), "R@10": random.random(5000)}
    clusters = random.permutation(np.repeat(np.arange(1000), 5))
    packed = pack_hits(hits, clusters=clusters, queries=["two dogs", "två hundar"])
    back = unpack_hits(json.loads(json.dumps({"per_query": packed})))
    assert back is not None
    assert np.array_equal(back.values["R@1"], hits["R@1"])
    assert np.abs(back.values["R@10"] - hits["R@10"]).max() < 1e-5
    same = clusters[:, None] == clusters[:50]
    assert np.array_equal(back.clusters[:, None] == back.clusters[:50], same)


def test_a_hundred_thousand_queries_take_little_room():
    hits = (np.random.default_rng(0).random(100_000) < 0.8).astype(float)
    assert len(json.dumps(pack_hits({"R@10": hits}, clusters=np.arange(100_000) // 5))) < 40_000


def test_queries_apart_without_clusters_and_keys_tell_other_queries():
    back = unpack_hits({"per_query": pack_hits({"R@1": [0, 1, 1]})})
    assert back is not None
    assert len(set(back.clusters.tolist())) == 3
    keys = {
        pack_hits({"R@1": [0, 1]}, queries=queries, clusters=clusters)["key"]
        for queries in (["a", "b"], ["b", "a"])
        for clusters in ([0, 0], [0, 1])
    }
    assert len(keys) == 4
    assert unpack_hits({"metrics": {}}) is None


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ({}, None, "no metric"),
        ({"R@1": [0.0], "R@5": [0.0, 1.0]}, None, "one value a query"),
        ({"R@1": [0.0, 1.5]}, None, "leave 0..1"),
        ({"R@1": [float("nan")]}, None, "NaN"),
        ({"R@1": [0.0, 1.0]}, [1], "1 cluster ids for 2 queries"),
    ],
)
def test_what_is_no_hit_is_refused(values, clusters, message):
    with pytest.raises(BabelclipError, match=message):
        pack_hits(values, clusters=clusters)


@pytest.mark.parametrize(
    "change",
    [
        *({"n": 4}, {"format": "float"}, {"values": {"R@1": "@@"}}, {"values": 3}, {"n": "x"}),
        # Neither may ask for more memory than the file holds.
        *({"n": 10**30}, {"n": 10**12}, {"n": 10**12, "values": {}}),
    ],
)
def test_a_damaged_field_is_named(change):
    packed = {**pack_hits({"R@1": [0, 1, 1]}), **change}
    with pytest.raises(BabelclipError, match="per_query of the result m/d/en is unreadable"):
        unpack_hits({"model": "m", "dataset": "d", "language": "en", "per_query": packed})
