"""Random training batches from 1,000,000 vectors on disk: the `EmbeddingStore` against rows of a data set.

    python benchmarks/store.py [--rows 1000000] [--rounds 40] [--folder DIR] [--out results/store.json]

A batch is 2,048 random rows of 768 numbers as a float32 torch tensor (2048, 768). The store holds float16 in shards of
16,384. The data set holds the same vectors as M-CLIP/ImageCaptions-7M-Embeddings does, `id` and `embedding` [1, D] as
lists of lists of float32, saved to disk by `datasets`, whose files are memory-mapped as well. Its rows are read

* as they come: `torch.tensor(ds[indices]["embedding"])`, the path of the original and of data collators,
* through `with_format("torch")` and `with_format("numpy")`, which `datasets` offers for that purpose,
* through `with_format("arrow")` and by flattening the lists by hand, the best that the format allows.

Every path runs in a process of its own with one thread, all in turn with the same rows; a checksum shows that all give
the same batch. Files are warm: all are read once before, and pages that had to come from the disk all the same are
counted (major faults). Beside the time that passes stands that of the processor, which other work on the machine
disturbs less. Memory is what a process holds beside mapped files (RssAnon), after each batch and at its peak during
further batches; it must not grow. The bar: the median of the rows as they come is at least 50 times that of the store.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BAR = 50.0
BATCH, DIM, SHARD = 2048, 768, 16_384
PATHS = {
    "store": "EmbeddingStore.gather",
    "rows": 'torch.tensor(ds[i]["embedding"])',
    "torch": 'ds.with_format("torch")',
    "numpy": 'ds.with_format("numpy")',
    "arrow": 'ds.with_format("arrow"), by hand',
}
# Batches during which the peak of memory is looked at, after the timed ones.
WATCHED = 5


def vectors(rows: int) -> Iterator[np.ndarray]:
    """Yields random vectors (n, DIM) float16, `rows` in all."""
    random = np.random.default_rng(0)
    for start in range(0, rows, SHARD):
        yield random.standard_normal((min(SHARD, rows - start), DIM), dtype=np.float32).astype(np.float16)


def write_store(folder: Path, rows: int) -> None:
    """Writes the store."""
    from babelclip.store import EmbeddingStore

    start = 0
    with EmbeddingStore.create(folder, space="random", model="random", dim=DIM, normalized=False) as store:
        for block in vectors(rows):
            store.append(range(start, start + len(block)), block)
            start += len(block)


def write_dataset(folder: Path, rows: int) -> None:
    """Writes the data set as `save_to_disk` leaves it, in record batches of 1,000 rows as `datasets` does."""
    import pyarrow as pa
    from datasets import Dataset

    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.list_(pa.float32()))})
    start = 0
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        file = Path(name) / "rows.arrow"
        with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, schema) as writer:
            for block in vectors(rows):
                flat = pa.array(block.astype(np.float32).ravel())
                lists = pa.ListArray.from_arrays(pa.array(np.arange(len(block) + 1, dtype=np.int32) * DIM), flat)
                nested = pa.ListArray.from_arrays(pa.array(np.arange(len(block) + 1, dtype=np.int32)), lists)
                ids = pa.array(np.arange(start, start + len(block)))
                writer.write_table(pa.table([ids, nested], schema=schema), max_chunksize=1000)
                start += len(block)
        Dataset.from_file(str(file)).save_to_disk(str(folder))


def opened(path: str, folder: Path) -> Callable[[np.ndarray], Any]:
    """Returns the function from row numbers (B,) to a float32 tensor (B, DIM) of one path."""
    import torch

    torch.set_num_threads(1)
    if path == "store":
        from babelclip.store import EmbeddingStore

        store = EmbeddingStore.open(folder / "store")
        return lambda rows: torch.from_numpy(store.gather(rows))
    from datasets import load_from_disk

    ds = load_from_disk(str(folder / "dataset"))
    if path == "rows":
        return lambda rows: torch.tensor(ds[rows.tolist()]["embedding"])[:, 0]
    formatted = ds.with_format(path, columns=["embedding"])
    if path == "torch":
        return lambda rows: formatted[rows.tolist()]["embedding"][:, 0]
    if path == "numpy":
        return lambda rows: torch.from_numpy(np.stack(list(formatted[rows.tolist()]["embedding"])))[:, 0]

    def by_hand(rows: np.ndarray) -> Any:
        lists = formatted[rows.tolist()]["embedding"].combine_chunks()
        return torch.from_numpy(lists.flatten().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), DIM).copy())

    return by_hand


def work(path: str, folder: Path, rows: int) -> None:
    """Runs in a process of its own: answers each seed on standard input with what its batch took."""
    read = opened(path, folder)
    for line in sys.stdin:
        order = json.loads(line)
        indices = np.random.default_rng(order["seed"]).integers(0, rows, BATCH)
        watch = Watch() if order["watched"] else None
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        start, processor = time.perf_counter(), time.process_time()
        batch = read(indices)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        answer = {"ms": seconds * 1000, "cpu_ms": processor * 1000, "shape": list(batch.shape)}
        answer["major_faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        answer["peak"] = watch.stop() if watch else 0
        answer |= {"checksum": zlib.crc32(batch.numpy().tobytes()), "dtype": str(batch.dtype)}
        del batch
        answer["anon"] = memory("RssAnon")
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def warm(folder: Path) -> None:
    """Reads every file once, into the page cache."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened_file:
                while opened_file.read(1 << 22):
                    pass


class Watch:
    """The largest RssAnon of this process, looked at every millisecond in a thread."""

    def __init__(self) -> None:
        self.peak, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self) -> None:
        """Looks until told to stop."""
        while not self.over.wait(0.001):
            self.peak = max(self.peak, memory("RssAnon"))

    def stop(self) -> int:
        """Returns the peak in bytes."""
        self.over.set()
        self.thread.join()
        return max(self.peak, memory("RssAnon"))


def memory(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(folder: Path, rows: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the answers of every path, round by round; the first round of each warms up and is left out."""
    answers: dict[str, list[dict[str, Any]]] = {path: [] for path in PATHS}
    workers = {
        path: subprocess.Popen(
            [sys.executable, __file__, "--work", path, str(folder), "--rows", str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"},
        )
        for path in PATHS
    }
    for number in range(rounds + WATCHED + 1):
        for path, worker in workers.items():
            order = {"seed": number, "watched": number > rounds}
            assert worker.stdin is not None and worker.stdout is not None  # noqa: PT018
            worker.stdin.write(json.dumps(order) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                raise SystemExit(f"{path} ended without an answer")
            answers[path].append(json.loads(line))
        told = {(row["checksum"], tuple(row["shape"]), row["dtype"]) for row in (a[-1] for a in answers.values())}
        if told != {(answers["store"][-1]["checksum"], (BATCH, DIM), "torch.float32")}:
            raise SystemExit(f"the paths give different batches: {told}")
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    return {path: rows_of[1:] for path, rows_of in answers.items()}


def summary(answers: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Returns median, spread and memory of one path."""
    times = sorted(answer["ms"] for answer in answers[:rounds])
    anon = [answer["anon"] for answer in answers]
    return {
        "median_ms": round(statistics.median(times), 3),
        "median_cpu_ms": round(statistics.median(answer["cpu_ms"] for answer in answers[:rounds]), 3),
        "major_faults": sum(answer["major_faults"] for answer in answers[:rounds]),
        "quartiles_ms": [round(float(np.quantile(times, share)), 3) for share in (0.25, 0.75)],
        "fastest_ms": round(times[0], 3),
        "slowest_ms": round(times[-1], 3),
        "anon_bytes_after_batch": {str(number): anon[number - 1] for number in (1, rounds // 2, rounds)},
        "anon_growth": round(anon[rounds - 1] / anon[0], 4),
        "anon_peak_bytes": max(answer["peak"] for answer in answers[rounds:]),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="keeps the two for another run (8 GB while made)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], Path(given.work[1]), given.rows)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        if not (folder / "dataset" / "state.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_store(folder / "store", given.rows)
            write_dataset(folder / "dataset", given.rows)
        sizes = {part: sum(f.stat().st_size for f in (folder / part).rglob("*")) for part in ("store", "dataset")}
        load = os.getloadavg()[0]
        warm(folder)
        answers = measure(folder, given.rows, given.rounds)
    paths = {path: summary(rows, given.rounds) for path, rows in answers.items()}
    cpu_ratios = {path: round(row["median_cpu_ms"] / paths["store"]["median_cpu_ms"], 1) for path, row in paths.items()}
    ratios = {path: round(row["median_ms"] / paths["store"]["median_ms"], 1) for path, row in paths.items()}
    sys.stderr.write("| path | median, ms | quartiles | ratio | CPU, ms | CPU ratio | held, MB | peak, MB | growth |\n")
    sys.stderr.write("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
    for path, row in paths.items():
        held, low, high = row["anon_bytes_after_batch"][str(given.rounds)], *row["quartiles_ms"]
        sys.stderr.write(
            f"| {PATHS[path]} | {row['median_ms']:.2f} | {low:.2f}-{high:.2f} | {ratios[path]:.1f} "
            f"| {row['median_cpu_ms']:.2f} | {cpu_ratios[path]:.1f} | {held / 1e6:.0f} "
            f"| {row['anon_peak_bytes'] / 1e6:.0f} | {row['anon_growth']:.3f} |\n"
        )
    result = {
        "benchmark": "store",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before",
        "versions": {name: version(name) for name in ("torch", "datasets", "numpy", "pyarrow")},
        "batch": [BATCH, DIM],
        "rows": given.rows,
        "rounds": given.rounds,
        "bytes": sizes,
        "paths": paths,
        "ratio_to_store": ratios,
        "cpu_ratio_to_store": cpu_ratios,
        "bar": BAR,
        "holds": ratios["rows"] >= BAR,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
