from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from babelclip.search import near_pairs
from babelclip.search.collection import ImageSpace, create_collection
from babelclip.search.columns import vector_array
from babelclip.search.memory import copied
from babelclip.search.near_duplicates import LEAST_COSINE
from babelclip.search.near_pairs import Joined, groups_of_vectors, have_neighbours, join_all
from babelclip.search.query import QueryVector, find_vector

pytest.importorskip("lancedb")
N, D = 300, 8


@pytest.fixture(scope="module")
def vectors():
    """Chains: each vector near the next few, the ends of a chain far apart; some equal, some alone."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((N, D))
    for row in range(1, N):
        if row % 6:
            rows[row] = rows[row - 1] + 0.25 * rng.standard_normal(D) * np.linalg.norm(rows[row - 1]) / D**0.5
    rows[40:60] = rows[40]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def collection(tmp_path_factory, vectors):
    made = create_collection(tmp_path_factory.mktemp("near") / "c.lance", ImageSpace("s", "m", dim=D))
    digests = [f"{row % 100:064x}" if row >= 200 else None for row in range(N)]  # none is twice
    digests[250] = digests[290] = "f" * 64
    names = [f"{row:03d}" for row in range(N)]
    made.upsert(pa.table({"id": names, "vector": vector_array(vectors), "sha256": digests}))
    return made


def components(vectors: np.ndarray, least: float, pairs: list[tuple[int, int]]) -> set[frozenset[str]]:
    """Connected components, the slow way."""
    near = vectors @ vectors.T >= least
    for one, other in pairs:
        near[one, other] = near[other, one] = True
    label = np.arange(len(vectors))
    for _ in range(len(vectors)):
        label = np.array([label[row].min() for row in near])
    names = {
        number: frozenset(f"{row:03d}" for row in np.flatnonzero(label == number)) for number in set(label.tolist())
    }
    return {group for group in names.values() if len(group) > 1}


def found(joined: Joined) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for name in joined.members():
        groups.setdefault(joined.first(name), set()).add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


@pytest.mark.parametrize("indexed", [False, True])
def test_groups_are_the_connected_components(collection, vectors, monkeypatch, indexed):
    monkeypatch.setattr(near_pairs, "_ROWS", 64)
    if indexed:
        monkeypatch.setattr(near_pairs, "_NEIGHBOURS", 4)  # the twenty equal ones then ask for more
        monkeypatch.setattr(near_pairs, "_join_exactly", lambda *_given: pytest.fail("not by the index"))
        monkeypatch.setattr(type(collection), "stats", lambda _self: type("Stats", (), {"index": "ivf_rq"}))
    joined, done = Joined(), []
    join_all(collection, [f"{row:03d}" for row in range(N)], 0.94, joined, done.append)
    expected = components(vectors, 0.94, [(250, 290)])
    assert len(expected) > 10
    assert found(joined) == expected
    assert sum(done) == N


def test_a_new_picture_is_joined_with_those_that_were_there(collection, vectors):
    joined = Joined()
    join_all(collection, ["041", "290", "gone"], 0.94, joined, lambda _n: None)
    near = {f"{row:03d}" for row in np.flatnonzero(vectors @ vectors[41] >= 0.94)}
    assert found(joined) >= {frozenset(near)}
    assert joined.first("290") == joined.first("250") == "250"


def test_within_results_a_row_belongs_to_the_first_it_resembles(vectors):
    best_first = vectors[[40, 3, 41, 200, 42]]
    assert groups_of_vectors(best_first, 0.9999) == [0, 1, 0, 3, 0]
    assert groups_of_vectors(vectors[:0], 0.9) == []


@pytest.mark.parametrize("block", [2048, 7])
def test_who_has_neighbours_is_the_same_whatever_the_block(vectors, monkeypatch, block):
    monkeypatch.setattr(near_pairs, "_ROWS", block)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    near = have_neighbours(vectors, 0.98)
    assert np.array_equal(near, (cosines >= 0.98).any(axis=1))
    assert 0 < near.sum() < N
    assert have_neighbours(vectors[:1], 0.9).tolist() == [False]


def test_noted_twins_change_no_answer(collection, vectors):
    """What was noted once folds as what is compared at each question, and leaves the rows that it may."""
    plain = copied(collection, most_rows=N, most_bytes=1 << 24)
    noted = copied(collection, most_rows=N, most_bytes=1 << 24)
    noted.note_twins(("group", "sha256"), LEAST_COSINE)
    twins = noted.twins(np.arange(N))
    assert plain.twins(np.arange(N)) is None
    assert {250, 290} <= set(twins)  # one file, two vectors
    assert len(twins) < N
    folded = 0
    for row in range(0, N, 7):
        for group_by in ("", "source"):
            ask = {"k": 12, "offset": row % 5, "group_by": group_by}
            answer = find_vector(noted, QueryVector(vectors[row]), **ask)
            assert answer.rows == find_vector(plain, QueryVector(vectors[row]), **ask).rows
            folded += sum(hit.similar for hit in answer.rows)
    assert folded > 100


def test_a_vector_that_is_no_number_is_nobodys_neighbour_and_takes_nobodys(vectors):
    broken = vectors.copy()
    broken[5] = np.nan
    near, whole = have_neighbours(broken, 0.98), have_neighbours(np.delete(vectors, 5, axis=0), 0.98)
    assert not near[5]
    assert np.array_equal(np.delete(near, 5), whole)
