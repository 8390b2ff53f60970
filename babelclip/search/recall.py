"""How well an index finds: its answers against exact ones, and how many partitions that needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa

from babelclip.search.collection import Collection, IndexReport, IndexSpec
from babelclip.search.columns import VECTOR, Vectors, unit_rows, vectors_of
from babelclip.search.exact import best_rows
from babelclip.search.filters import Eq, IsNull, Not, Or

K = 10
# Scores of the same two vectors differ in their last bits between engines.
TOLERANCE = 1e-5
_REFINE = (1, 2, 4)
# Of fewer captions a share says little.
_LEAST_CAPTIONS = 20


class Tunable(Collection, Protocol):
    """A collection whose index can be told how much of it to read."""

    def use_index(self, report: IndexReport) -> None:
        """Searches as `report` says from now on."""


def measured(collection: Tunable, draft: IndexReport, spec: IndexSpec) -> IndexReport:
    """Returns `draft` with the number of probes that reaches the recall asked for, and the recall it has.

    Picture queries are rows of the collection; a row does not count as found by itself. Text queries are what
    the caller gives: they lie elsewhere in the space than pictures, so their recall is a number of its own. Probes
    double until both kinds reach `target_recall`; where all partitions do not, more candidates are refined.
    """
    queries = sampled_queries(collection, spec)
    truth = {kind: exact_scores(collection, vectors, kind) for kind, vectors in queries.items()}
    report = draft
    for refine, probes in _settings(draft, spec):
        report = dataclasses.replace(draft, refine=refine, probes=probes)
        collection.use_index(report)
        found = {kind: recall_of(collection, vectors, truth[kind], kind) for kind, vectors in queries.items()}
        report = dataclasses.replace(
            report, recall=found, queries={kind: len(vectors) for kind, vectors in queries.items()}
        )
        if min(found.values(), default=1.0) >= spec.target_recall:
            break
    return report


def _settings(draft: IndexReport, spec: IndexSpec) -> Iterator[tuple[int, int]]:
    """Yields (refine, probes) to try, cheapest first."""
    if spec.probes:
        yield spec.refine, spec.probes
        return
    probes = max(1, draft.partitions // 64)
    while probes < draft.partitions:
        yield spec.refine, probes
        probes *= 2
    for factor in _REFINE:
        yield spec.refine * factor, draft.partitions


def sampled_queries(collection: Collection, spec: IndexSpec) -> dict[str, Vectors]:
    """Returns queries (Q, D) by kind: `picture`, rows at even distances, and `text` where the caller has some."""
    dim = collection.fingerprint.dim
    names = [name for batch in collection.scan() for name in batch["id"].to_pylist()]
    chosen = np.linspace(0, len(names) - 1, min(spec.queries, len(names))).astype(int)
    rows = collection.get([names[number] for number in dict.fromkeys(chosen.tolist())], with_vectors=True)
    queries = {}
    if spec.text_queries is not None and len(spec.text_queries):
        texts = unit_rows(spec.text_queries, dim, "text query")
        queries["text"] = texts[np.unique(np.linspace(0, len(texts) - 1, min(spec.queries, len(texts))).astype(int))]
    if len(rows):
        queries["picture"] = vectors_of(rows[VECTOR])
    return queries


def caption_queries(collection: Collection, encode: Callable[[list[str]], Vectors], count: int = 200) -> Vectors | None:
    """Returns the vectors (Q, D) of captions of the collection as text queries, None where it has too few.

    Args:
        collection: whose captions are asked.
        encode: texts to vectors, for example `clip.encode_text`.
        count: captions, at even distances among all.
    """
    where = Not(Or((IsNull("caption"), Eq("caption", ""))))
    captions = sorted({text for batch in collection.scan(columns=["caption"], where=where) for text in _texts(batch)})
    if len(captions) < _LEAST_CAPTIONS:
        return None
    chosen = np.unique(np.linspace(0, len(captions) - 1, min(count, len(captions))).astype(int))
    return encode([captions[number].strip().splitlines()[0] for number in chosen])


def _texts(batch: pa.RecordBatch) -> list[str]:
    return [text for text in batch["caption"].to_pylist() if text.strip()]


def exact_scores(collection: Collection, queries: Vectors, kind: str) -> Vectors:
    """Returns the scores (Q, K) of the best rows, descending; for `picture` without the row itself, which is best."""

    def blocks() -> Iterator[Vectors]:
        for batch in collection.scan(with_vectors=True, batch_rows=8192):
            yield vectors_of(batch[VECTOR])

    skip = int(kind == "picture")
    return best_rows(queries, K + skip, blocks())[0][:, skip:]


def recall_of(collection: Collection, queries: Vectors, truth: Vectors, kind: str) -> float:
    """Returns the share of the exact results that search finds.

    Results count by their score, not by their id: of two equal pictures either one is right.
    """
    skip = int(kind == "picture")
    found = collection.search(queries, K + skip)
    return share_found(found, truth, skip)


def share_found(found: pa.Table, truth: Vectors, skip: int = 0) -> float:
    """Returns the share of results, best first for each query, that score as much as the last of the true ones.

    Args:
        found: query and score of results.
        truth: (Q, K) exact scores, descending.
        skip: results of each query that do not count, from the best on.
    """
    if not truth.size:
        return 1.0
    numbers, scores = found["query"].to_numpy(), found["score"].to_numpy()
    right = 0
    for query, wanted in enumerate(truth):
        own = scores[numbers == query][skip : skip + len(wanted)]
        right += int((own >= wanted[-1] - TOLERANCE).sum())
    return right / truth.size
