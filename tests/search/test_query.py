from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.search import query_background
from babelclip.search.collection import ImageSpace, create_collection, open_collection
from babelclip.search.columns import vector_array
from babelclip.search.filters import Eq, Ne
from babelclip.search.memory import copied
from babelclip.search.query import QueryVector, Term, find, find_vector
from babelclip.search.query_background import background, measure_background
from tests.conftest import EMBED_DIM, make_clip
from tests.search.collections import write_clip_retrieval

pytest.importorskip("lancedb")
N = 400


@pytest.fixture(scope="module")
def clip():
    return make_clip()


@pytest.fixture(scope="module")
def vectors():
    """400 vectors: 100 pictures, of each three near duplicates."""
    rng = np.random.default_rng(0)
    base = np.repeat(rng.standard_normal((N // 4, EMBED_DIM)), 4, axis=0)
    rows = base + 0.01 * rng.standard_normal((N, EMBED_DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def collection(tmp_path_factory, vectors):
    url = tmp_path_factory.mktemp("query") / "c.lance"
    made = create_collection(url, ImageSpace("test/tiny", "tiny", dim=EMBED_DIM), columns={"shop": "text"})
    rows = {
        "id": [f"r{row:03d}" for row in range(N)],
        "vector": vector_array(vectors),
        "path": [f"{row}.jpg" for row in range(N)],
        "width": list(range(N)),
        "shop": [f"s{row % 3}" for row in range(N)],
        # Groups of even pictures are known; those of the others are found at the query.
        "group": [f"r{row - row % 4:03d}" if row // 4 % 2 == 0 else None for row in range(N)],
    }
    made.upsert(pa.table(rows))
    made.close()
    return open_collection(url)


def ids(results) -> list[str]:
    return [hit.id for hit in results.rows]


def test_a_weighted_sum_ranks_by_the_sum_of_unit_vectors(collection, clip, vectors):
    terms = [Term(text="a dog"), Term(id="r004", weight=-0.5), Term(vector=7 * vectors[9], weight=2)]
    total = clip.encode_text(["a dog"])[0] - 0.5 * vectors[4] + 2 * vectors[9]
    scores = vectors @ (total / np.linalg.norm(total))
    found = find(collection, clip, terms, 5, dedup=False)
    assert ids(found) == [f"r{row:03d}" for row in np.argsort(-scores)[:5]]
    np.testing.assert_allclose([hit.score for hit in found.rows], np.sort(scores)[::-1][:5], atol=1e-5)


def test_a_line_of_text_is_its_terms_and_pictures_are_encoded(collection, clip, picture_folder):
    line = find(collection, clip, "dog - cat", 5, dedup=False)
    assert ids(line) == ids(find(collection, clip, [Term(text="dog"), Term(text="cat", weight=-0.5)], 5, dedup=False))
    picture = picture_folder / "red-circle.png"
    by_path = find(collection, clip, [Term(image=picture)], 5, dedup=False)
    by_vector = find(collection, None, [Term(vector=clip.encode_image([picture])[0])], 5, dedup=False)
    assert ids(by_path) == ids(by_vector)


def test_near_duplicates_collapse_without_falling_short_of_k(collection, vectors):
    query = QueryVector(vectors[17])
    for k in (1, 10, 60):
        found = find_vector(collection, query, k)
        pictures = [int(name[1:]) // 4 for name in ids(found)]
        assert len(pictures) == len(set(pictures)) == k
        assert [hit.similar for hit in found.rows] == [3] * k
    everything = find_vector(collection, query, 500)
    assert (len(everything.rows), everything.exhausted) == (N // 4, True)
    best = {int(name[1:]) // 4: name for name in reversed(ids(find_vector(collection, query, N, dedup=False)))}
    assert sorted(ids(everything)) == sorted(best.values())  # of each, the best stands for the others


def test_pages_follow_one_another(collection, vectors):
    query = QueryVector(vectors[17])
    whole = ids(find_vector(collection, query, 30))
    assert [name for offset in (0, 10, 20) for name in ids(find_vector(collection, query, 10, offset=offset))] == whole
    assert not find_vector(collection, query, 10, offset=20).exhausted
    assert find_vector(collection, query, 10, offset=95).exhausted


def test_rows_of_one_score_come_once_on_one_page(tmp_path, vectors):
    random = np.random.default_rng(0)
    names = [f"{number:016x}" for number in random.integers(0, 2**60, 90)]
    made = create_collection(tmp_path / "equal.lance", ImageSpace("test/tiny", "m", dim=vectors.shape[1]))
    made.upsert(pa.table({"id": names, "vector": vector_array(np.repeat(vectors[:3], 30, axis=0))}))
    copy = copied(made, most_rows=90, most_bytes=1 << 24)
    query = QueryVector(vectors[1])
    for where in (None, Ne("id", names[3])):
        pages = [ids(find_vector(copy, query, 7, offset=start, dedup=False, where=where)) for start in range(0, 91, 7)]
        assert sorted(name for page in pages for name in page) == sorted(set(names) - ({names[3]} if where else set()))
    found = copy.search(vectors[1], 20)
    assert found["id"].to_pylist() == sorted(names[30:60])[:20]


def test_a_page_is_one_search_and_says_whether_more_follows(collection, vectors, monkeypatch):
    asked = []
    search = type(collection).search
    monkeypatch.setattr(
        type(collection), "search", lambda self, vector, k, **given: asked.append(k) or search(self, vector, k, **given)
    )
    query = QueryVector(vectors[17])
    assert not find_vector(collection, query, 10, dedup=False).exhausted
    assert asked == [11]
    assert not find_vector(collection, query, 10, offset=N - 11, dedup=False).exhausted
    assert find_vector(collection, query, 10, offset=N - 10, dedup=False).exhausted


def test_what_is_full_of_duplicates_is_given_up_and_says_so(collection, vectors):
    query = QueryVector(vectors[17])
    page = find_vector(collection, query, 10, most=20)  # five pictures, four times each
    assert (len(page.rows), page.exhausted) == (5, True)  # a next page would look at the same rows
    assert not find_vector(collection, query, 3, most=20).exhausted
    assert not find_vector(collection, query, 20, most=20, dedup=False).exhausted


def test_filters_and_groups_give_k_of_what_fits(collection, vectors):
    query = QueryVector(vectors[17])
    found = find_vector(collection, query, 10, where="width < 40", columns=["width"])
    assert len(found.rows) == 10
    assert all(hit.values["width"] < 40 for hit in found.rows)
    assert find_vector(collection, query, 20, where="width < 40").exhausted
    assert ids(find_vector(collection, query, 10, where=Eq("width", 7))) == ["r007"]
    by_shop = find_vector(collection, query, 5, group_by="shop", dedup=False)
    assert sorted({hit.id for hit in by_shop.rows}) == sorted(ids(by_shop))
    assert (len(by_shop.rows), by_shop.exhausted) == (3, True)


def test_an_item_is_not_like_itself(collection):
    found = find(collection, None, [Term(id="r020")], 3, dedup=False)
    assert "r020" not in ids(found)
    assert set(ids(found)) == {"r021", "r022", "r023"}


def test_scores_are_cut_by_cosine_and_by_distance_to_unrelated_queries(collection, clip):
    whole = find(collection, clip, "a dog", N, dedup=False)
    spread = background(collection, clip)
    for hit in whole.rows[:5]:
        assert hit.z == pytest.approx((hit.score - spread.text.mean) / spread.text.std)
    cut = find(collection, clip, "a dog", N, dedup=False, min_z=1.0)
    assert ids(cut) == [hit.id for hit in whole.rows if hit.z >= 1.0]
    assert 0 < len(cut.rows) < N
    assert cut.exhausted
    least = whole.rows[9].score
    assert ids(find(collection, clip, "a dog", N, dedup=False, min_score=least)) == ids(whole)[:10]


def test_the_background_is_measured_once_for_an_encoder_and_again_when_the_collection_grew(
    collection, clip, monkeypatch
):
    first = background(collection, clip)
    # A sum of two independent terms spreads less than each.
    mean, std = first.of([("text", 0.5), ("image", 0.5)])
    assert mean == pytest.approx((first.text.mean + first.image.mean) / 2)
    assert std < max(first.text.std, first.image.std)
    monkeypatch.setattr(query_background, "measure_background", lambda *_given: pytest.fail("measured again"))
    assert background(collection, clip) == first
    other = make_clip(seed=3)
    other.name = "another"
    with pytest.raises(pytest.fail.Exception):
        background(collection, other)
    file = next(query_background.state_folder(collection.url).glob("background-*.json"))
    file.write_text(file.read_text().replace(f'"rows": {N}', '"rows": 10'))
    with pytest.raises(pytest.fail.Exception):
        background(collection, clip)


def test_measuring_the_background_gives_the_same_numbers_each_time(collection, clip):
    assert measure_background(collection, clip) == measure_background(collection, clip)


def test_a_vector_that_is_no_number_does_not_spoil_what_scores_are_compared_with(clip, vectors, tmp_path):
    pytest.importorskip("faiss")
    theirs = vectors.copy()
    theirs[3], theirs[77] = np.nan, np.inf
    names = [str(row) for row in range(N)]
    rows = pa.table({"id": names, "caption": names, "vector": vector_array(theirs)})
    folder = write_clip_retrieval(tmp_path / "theirs", rows, names=False)
    with np.errstate(invalid="ignore"):
        found = find(open_collection(folder, space=clip.space), clip, "a dog", N, dedup=False)
    assert len(found.rows) == N - 2
    assert np.isfinite([(hit.score, hit.z) for hit in found.rows]).all()


def test_what_makes_no_query_is_refused(collection, clip, vectors):
    cases = [
        ([], {}, "empty"),
        ("  ", {}, "empty"),
        ([Term(id="nowhere")], {}, "no item"),
        ([Term(vector=vectors[0]), Term(vector=vectors[0], weight=-1)], {}, "cancel each other out"),
        ([Term(vector=np.ones(3, np.float32))], {}, "shape"),
        ("dog", {"k": 0}, "at least 1"),
        ("dog", {"min_score": float("nan")}, "NaN"),
        ("dog", {"where": "widht > 3"}, "Did you mean"),
        ("dog", {"group_by": "shpo"}, "Did you mean"),
    ]
    for terms, settings, words in cases:
        with pytest.raises(BabelclipError, match=words):
            find(collection, clip, terms, **settings)
    with pytest.raises(BabelclipError, match="min_score"):
        find_vector(collection, QueryVector(vectors[0]), min_z=2.0)
    with pytest.raises(BabelclipError, match="no model"):
        find(collection, None, "dog")
    with pytest.raises(SpaceMismatchError):
        find(collection, dataclasses.replace(clip, space="test/other"), "dog")
