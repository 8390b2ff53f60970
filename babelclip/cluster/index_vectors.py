"""The index of the vectors of a large collection, built by all machines of a Ray cluster (lance-ray).

It is the index that `build_index` makes (IVF_RQ, inner product), in one part for each worker, and measured in the same
way. Each setting is named: lance-ray takes one bit a number for granted and pylance five, and the metric L2.
"""

from __future__ import annotations

import time
from typing import Any

from babelclip.cluster.job import Means
from babelclip.cluster.ray_cluster import joined
from babelclip.errors import require
from babelclip.search import lance_index, recall
from babelclip.search.collection import IndexReport, IndexSpec, now
from babelclip.search.columns import VECTOR
from babelclip.search.index import EncodeTexts

# Below so many rows one process builds it in minutes.
INDEXED_BY_ALL_FROM = 5_000_000
_SAMPLE = 256  # rows for each partition that its centre is found among, as Lance takes by itself


def build_on_cluster(collection: Any, table: str, means: Means, encode_text: EncodeTexts | None) -> IndexReport:
    """Returns the measured report of the index that was built in place of what was there.

    Args:
        collection: a `LanceCollection`, open for writing; its dimension is divisible by 8.
        table: its Lance table.
        means: the cluster.
        encode_text: encodes captions as queries; None without a text tower.
    """
    start, rows = time.perf_counter(), collection.count()
    partitions, spec = lance_index.default_partitions(rows), IndexSpec()
    with joined(means.ray_address, max(1, means.workers), 0) as ray:
        lance_ray = require("lance_ray", "cluster")
        workers = means.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        lance_ray.create_index(
            uri=table,
            column=VECTOR,
            index_type="IVF_RQ",
            name=f"{VECTOR}_idx",
            replace=True,
            num_workers=workers,
            num_segments=workers,
            metric="dot",
            num_partitions=partitions,
            num_bits=1,
            sample_rate=max(2, min(_SAMPLE, rows // partitions)),
        )
    require("lance", "cluster").dataset(table).create_scalar_index("id", "BTREE", replace=True)
    seconds = time.perf_counter() - start
    collection.refresh()
    texts = recall.caption_queries(collection, encode_text) if encode_text is not None else None
    draft = IndexReport("ivf_rq", rows, partitions, 1, 1, spec.refine, seconds, made=now())
    report = recall.measured(collection, draft, IndexSpec(text_queries=texts))
    collection.set_fact("index_report", report.to_json())
    collection.refresh()
    return report
