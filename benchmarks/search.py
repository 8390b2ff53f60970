"""Every backend of a collection on the same vectors: recall@10 against queries a second, memory and disk.

    python benchmarks/search.py --folder DIR [--rows 200000] [--milvus-rows 20000] [--out results/search.json]
    python benchmarks/search.py --folder DIR --real MODEL --pictures DIR... --texts FILE... [--out results/real.json]

The set: 200,000 unit vectors of 640 numbers in 1,000 clusters whose sizes are drawn from a Dirichlet distribution, with
a power-law spectrum of variances, and 500 further ones as queries (specs/search-and-serving.md 2.2; the similarities of
neighbours are printed, so that one sees how hard it is). Truth is the exact inner product in float32. A result counts
as found when its cosine is that of the tenth true one or more, whatever score it was told with.

Each backend works in a process of its own through the public interface (`open_collection`, `search`), tables of results
included. Queries come one at a time, each once to warm up and then for some seconds; then from two threads at once, as
in a service on two cores. Memory is what the process holds while it searches (RSS, and its part that is not mapped
files). The filtered queries ask for one of a hundred groups. Made things stay in DIR, so a second run only searches.

Bars: LanceDB recall@10 >= 0.97 at >= 150 queries a second on two cores; fast mode >= 0.95 at >= 2,000.

With --real: pictures and the lines of text files, encoded by a model, and the recall report of an index over them. Text
queries lie apart from pictures in the space, so synthetic queries cannot stand for them. Pictures come as folders, or
as stores of vectors (`EmbeddingStore`; those from before the head of the tower pass through it here).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

DIM, CLUSTERS, QUERIES, GROUPS, K = 640, 1000, 500, 100, 10
# Shape of the set: exponent of the spectrum, and length of what is added to a centre.
SPECTRUM, SPREAD = 0.5, 0.76
BACKENDS = ("lance", "faiss", "fast", "milvus")
BARS = {"lance": (0.97, 150.0), "fast": (0.95, 2000.0)}
SECONDS = 3.0


def make_vectors(folder: Path, rows: int) -> None:
    """Writes rows.npy (rows, DIM), queries.npy (QUERIES, DIM) and truth.npz: exact scores and rows, also by group."""
    if (folder / f"truth-{rows}.npz").exists():
        return
    random = np.random.default_rng(0)
    scale = (np.arange(1, DIM + 1) ** -SPECTRUM).astype(np.float32)
    scale /= np.linalg.norm(scale)
    centres = random.standard_normal((CLUSTERS, DIM), dtype=np.float32) * scale
    weights = random.dirichlet(np.ones(CLUSTERS))
    chosen = random.choice(CLUSTERS, size=rows + QUERIES, p=weights)
    vectors = centres[chosen]
    for start in range(0, len(vectors), 20_000):
        part = vectors[start : start + 20_000]
        part += SPREAD * scale * random.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    queries, vectors = vectors[rows:], vectors[:rows]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"rows-{rows}.npy", vectors)
    np.save(folder / f"queries-{rows}.npy", queries)
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1)[:, :100]
    groups = np.arange(QUERIES) % GROUPS
    inside = np.arange(rows)[None] % GROUPS == groups[:, None]
    scores_inside = np.where(inside, scores, -2)
    best_inside = np.argsort(-scores_inside, axis=1)[:, :K]
    np.savez(
        folder / f"truth-{rows}.npz",
        scores=np.take_along_axis(scores, best, axis=1),
        rows=best,
        group_scores=np.take_along_axis(scores_inside, best_inside, axis=1),
        random=float((vectors[::7][:1000] * vectors[3::7][:1000]).sum(axis=1).mean()),
    )


def batches(folder: Path, rows: int) -> Iterator[pa.Table]:
    """Yields the rows as a collection takes them."""
    from babelclip.search.columns import vector_array

    vectors = np.load(folder / f"rows-{rows}.npy", mmap_mode="r")
    for start in range(0, rows, 16_384):
        part = np.asarray(vectors[start : start + 16_384])
        numbers = np.arange(start, start + len(part))
        ids = [str(number) for number in numbers]
        yield pa.table({"id": ids, "vector": vector_array(part), "place": numbers % GROUPS})


def made(backend: str, folder: Path, rows: int) -> tuple[Any, dict[str, Any]]:
    """Returns the collection of a backend, made where it is not there yet, and what making it took."""
    from babelclip.search.collection import ImageSpace, create_collection, open_collection
    from babelclip.search.faiss_fast import open_fast

    start, cpu = time.perf_counter(), time.process_time()
    url = folder / {"lance": "x.lance", "fast": "x.lance", "faiss": "clip-retrieval", "milvus": "x.db"}[backend]
    fresh = not url.exists()
    facts: dict[str, Any] = {}
    if fresh and backend == "faiss":
        write_clip_retrieval(folder, url, rows)
    elif fresh:
        space = ImageSpace("synthetic", "synthetic", dim=DIM)
        collection = create_collection(url, space, columns={"place": "int"})
        for table in batches(folder, rows):
            collection.upsert(table)
        facts["write_s"] = round(time.perf_counter() - start, 1)
        report = collection.build_index()
        facts["index_s"], facts["report"] = round(report.seconds, 1), report.to_json()
        collection.optimize()
        collection.close()
    collection = open_collection(url, **({"space": "synthetic"} if backend == "faiss" else {}))
    if backend == "fast":
        begun = time.perf_counter()
        collection = open_fast(collection, folder=folder / "fast")
        facts["open_s"] = round(time.perf_counter() - begun, 1)
    facts |= {"made_s": round(time.perf_counter() - start, 1), "made_cpu_s": round(time.process_time() - cpu, 1)}
    note = folder / f"made-{backend}.json"
    if fresh or (backend == "fast" and not note.exists()):
        note.write_text(json.dumps(facts))
    return collection, json.loads(note.read_text())


def write_clip_retrieval(folder: Path, out: Path, rows: int) -> None:
    """Writes the rows as clip-retrieval does, in float32 so that truth is the same."""
    import pyarrow.parquet as pq

    for name in ("img_emb", "metadata"):
        (out / name).mkdir(parents=True)
    os.link(folder / f"rows-{rows}.npy", out / "img_emb" / "img_emb_0.npy")
    numbers = np.arange(rows)
    table = pa.table({"image_path": [f"{number}.jpg" for number in numbers], "place": numbers % GROUPS})
    pq.write_table(table, out / "metadata" / "metadata_0.parquet")


def timed(ask: Callable[[int], Any], count: int, seconds: float, threads: int) -> dict[str, float]:
    """Returns queries a second and quantiles of one in ms, from so many threads for so many seconds."""
    for number in range(min(count, 50)):
        ask(number)
    end = time.perf_counter() + seconds

    def work(thread: int) -> list[float]:
        taken, number = [], thread
        while time.perf_counter() < end:
            start = time.perf_counter()
            ask(number % count)
            taken.append(time.perf_counter() - start)
            number += threads
        return taken

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        taken = [value for part in pool.map(work, range(threads)) for value in part]
    passed = time.perf_counter() - start
    p50, p95 = (float(value) * 1000 for value in np.quantile(taken, [0.5, 0.95]))
    return {"qps": round(len(taken) / passed, 1), "p50_ms": round(p50, 2), "p95_ms": round(p95, 2)}


def memory(field: str) -> float:
    """Returns a field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024, 1)


def recall(found: list[pa.Table], queries: np.ndarray, vectors: np.ndarray, truth: np.ndarray) -> float:
    """Returns recall@10: the share of results whose own cosine is that of the tenth true result, or more."""
    right = 0
    for table, query, scores in zip(found, queries, truth, strict=False):
        own = vectors[sorted(map(int, table["id"].to_pylist()))] @ query
        right += int((own >= scores[K - 1] - 1e-6).sum())
    return round(right / (len(found) * K), 4)


def off(found: list[pa.Table], queries: np.ndarray, vectors: np.ndarray) -> float:
    """Returns the largest difference between a score that was told and the cosine of these vectors."""
    differences = [
        np.abs(vectors[[int(name) for name in table["id"].to_pylist()]] @ query - table["score"].to_numpy()).max()
        for table, query in zip(found, queries, strict=False)
    ]
    return float(f"{max(differences):.1e}")


def measure(backend: str, folder: Path, rows: int) -> dict[str, Any]:
    """Returns what a backend reaches."""
    from babelclip.search.filters import Eq

    make_vectors(folder, rows)
    queries = np.load(folder / f"queries-{rows}.npy")
    truth = dict(np.load(folder / f"truth-{rows}.npz"))
    vectors = np.load(folder / f"rows-{rows}.npy", mmap_mode="r")
    collection, facts = made(backend, folder, rows)
    few = 40 if backend in ("faiss", "milvus") else QUERIES
    groups = [Eq("place", number % GROUPS) for number in range(QUERIES)]
    found = [collection.search(query, K) for query in queries[:few]]
    inside = [collection.search(query, K, where=groups[number]) for number, query in enumerate(queries[:few])]
    answer = {
        "rows": rows,
        "made": facts,
        "unfiltered": {"recall": recall(found, queries, vectors, truth["scores"])},
        "filtered": {"recall": recall(inside, queries, vectors, truth["group_scores"])},
        "largest_error_of_a_score": off(found, queries, vectors),
    }
    for threads in (1, 2):
        answer["unfiltered"][f"threads_{threads}"] = timed(
            lambda n: collection.search(queries[n], K), few, SECONDS, threads
        )
    answer["filtered"]["threads_1"] = timed(
        lambda n: collection.search(queries[n], K, where=groups[n]), few, SECONDS / 2, 1
    )
    answer["rss_mb"], answer["anon_mb"] = memory("VmRSS"), memory("RssAnon")
    stats = collection.stats()
    answer["index"], answer["disk_mb"] = stats.index, round(stats.bytes / 1e6, 1)
    if backend == "lance":
        batch = timed(lambda n: collection.search(queries[:50], K), 1, SECONDS / 2, 1)
        answer["batches_of_50_qps"] = round(batch["qps"] * 50, 1)
    return answer


def picture_vectors(clip: Any, source: Path) -> np.ndarray:
    """Returns the vectors (n, D) of the pictures of a folder, or of a store of them."""
    from babelclip.data.images import list_pictures
    from babelclip.store import EmbeddingStore
    from babelclip.store.layout import MANIFEST

    if not (source / MANIFEST).is_file():
        return clip.encode_image(list_pictures(source))
    import torch

    vectors = EmbeddingStore.open(source).read()
    if vectors.shape[1] != clip.embed_dim:
        with torch.inference_mode():
            vectors = clip.image.head(torch.from_numpy(vectors)).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def real(folder: Path, model: str, pictures: list[Path], texts: list[Path]) -> dict[str, Any]:
    """Returns the recall report of an index over real pictures, asked by real texts, and search without index."""
    import babelclip
    from babelclip.search.collection import ImageSpace, IndexSpec, create_collection
    from babelclip.search.columns import vector_array

    clip = babelclip.load(model)
    cache = folder / "real-vectors.npz"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = [line for file in texts for line in gzip.open(file, "rt", encoding="utf-8").read().splitlines()]
        found = np.concatenate([picture_vectors(clip, source) for source in pictures])
        np.savez(cache, pictures=found, texts=clip.encode_text(lines))
    kept = dict(np.load(cache))
    url = folder / "real.lance"
    if url.exists():
        raise SystemExit(f"{url} is there already: remove it")
    collection = create_collection(url, ImageSpace(clip.space, clip.name, dim=clip.embed_dim))
    rows = kept["pictures"]
    for start in range(0, len(rows), 16_384):
        part = rows[start : start + 16_384]
        ids = [str(number) for number in range(start, start + len(part))]
        collection.upsert(pa.table({"id": ids, "vector": vector_array(part)}))
    reports = []
    for spec in (IndexSpec(kind="ivf_rq", text_queries=kept["texts"]), *probing(kept["texts"], len(rows))):
        report = collection.build_index(spec)
        print(report.sentence(), file=sys.stderr)
        reports.append(report.to_json())
    some = kept["texts"][:: max(1, len(kept["texts"]) // 200)]
    best = (some / np.linalg.norm(some, axis=1, keepdims=True) @ rows.T).max(axis=1)
    return {
        "model": clip.name,
        "pictures": len(rows),
        "texts": len(kept["texts"]),
        "languages": sorted({file.name.split(".")[1] for file in texts}),
        "best_score_of_a_text_mean": round(float(best.mean()), 3),
        "reports": reports,
    }


def probing(texts: np.ndarray, rows: int) -> list[Any]:
    """Returns settings that show what the number of probes and the refining are worth."""
    from babelclip.search.collection import IndexSpec

    partitions = round(rows**0.5)
    shares = [max(1, round(partitions * share)) for share in (0.02, 0.05, 0.125, 0.25)]
    return [IndexSpec(kind="ivf_rq", probes=probes, refine=10, text_queries=texts) for probes in shares]


def table_of(results: dict[str, Any]) -> str:
    """Returns the results as a table for people."""
    lines = [
        "backend  rows     index            recall  QPS 1/2 threads   p50 ms  filtered      RSS (anon) MB  disk MB"
    ]
    for name, one in results.items():
        free, inside = one["unfiltered"], one["filtered"]
        alone, two = free["threads_1"], free["threads_2"]
        lines.append(
            f"{name:<8} {one['rows']:<8,} {one['index']:<16} {free['recall']:.3f}  "
            f"{alone['qps']:>7,.0f} /{two['qps']:>7,.0f}  {alone['p50_ms']:>7.2f}  "
            f"{inside['recall']:.3f}/{inside['threads_1']['qps']:<6,.0f} {one['rss_mb']:>6,.0f} ({one['anon_mb']:,.0f})"
            f"{one['disk_mb']:>9,.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the backends one after another, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--milvus-rows", type=int, default=20_000)
    parser.add_argument("--backend", choices=BACKENDS, nargs="*", default=list(BACKENDS))
    parser.add_argument("--one", choices=BACKENDS, help=argparse.SUPPRESS)
    parser.add_argument("--real", metavar="MODEL")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[])
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.folder, args.rows)))
        return
    head = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before",
        "versions": {
            name: version(name) for name in ("lancedb", "faiss-cpu", "pymilvus", "milvus-lite", "numpy", "pyarrow")
        },
    }
    content: dict[str, Any]
    if args.real:
        content = {"benchmark": "search-real", **head, **real(args.folder, args.real, args.pictures, args.texts)}
    else:
        results = {}
        for backend in args.backend:
            rows = args.milvus_rows if backend == "milvus" else args.rows
            folder = args.folder / str(rows)
            command = [sys.executable, __file__, "--folder", str(folder), "--rows", str(rows), "--one", backend]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[backend] = json.loads(done.stdout.splitlines()[-1])
            print(table_of({backend: results[backend]}), file=sys.stderr)
        truth = np.load(args.folder / str(args.rows) / f"truth-{args.rows}.npz")
        scores = truth["scores"]
        similarity = {f"top_{n}": round(float(scores[:, n - 1].mean()), 3) for n in (1, 10, 100)}
        similarity["random_pair"] = round(float(truth["random"]), 3)
        bars = {
            name: {
                "recall": recall_bar,
                "qps": qps_bar,
                "met": results[name]["unfiltered"]["recall"] >= recall_bar
                and max(results[name]["unfiltered"][f"threads_{n}"]["qps"] for n in (1, 2)) >= qps_bar,
            }
            for name, (recall_bar, qps_bar) in BARS.items()
            if name in results
        }
        content = {
            "benchmark": "search",
            **head,
            "set": {
                "dim": DIM,
                "clusters": CLUSTERS,
                "queries": QUERIES,
                **similarity,
                "random": float(truth["random"]),
            },
            "backends": results,
            "bars": bars,
        }
        print(table_of(results), file=sys.stderr)
    if args.out:
        args.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(content, ensure_ascii=False))


if __name__ == "__main__":
    main()
