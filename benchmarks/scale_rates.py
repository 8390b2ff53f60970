"""Unit rates for `benchmarks/scale.py`: what is measured in results/, what others published, what is assumed.

A rate says where it comes from, so that a table of plans can say it too. The kinds:

* measured: read from the newest file of `results/` that has it. On the machine named there; per core where many cores
  are meant.
* published: claimed by others for their hardware; nobody here repeated it.
* assumed: a round number that has to be replaced by your own; prices are of this kind.
* given: from the command line (`--set NAME=VALUE`).

Entry points: `Rate`, `load_rates`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

KINDS = ("measured", "published", "assumed", "given")


@dataclass(frozen=True)
class Rate:
    """One number: `value` in `unit`, of a kind (`KINDS`), from `source`."""

    name: str
    value: float
    unit: str
    kind: str
    source: str


# name, value, unit, where it is claimed. Versions and links: the specification of search and serving, 1.7 and 2.2-2.4.
PUBLISHED = (
    ("gpu_pictures", 312.0, "pictures/s, ViT-L/14 on one A100", "clip-retrieval's README"),
    ("gpu_pictures_b32", 2500.0, "pictures/s, ViT-B/32 on one A100, bound by resizing", "clip-retrieval's README"),
    ("gpu_translations", 12.5e6 / 26 / 3600, "texts/s, opus-mt on one RTX 3090, batch 64",
     "M-CLIP's notes: 12.5 million captions in 26 h"),
    ("student_gpu_hours", 8 * 24.0, "GPU-hours, XLM-R-large student of M-CLIP 2022", "M-CLIP's notes: 24 h on 8 A100"),
    ("picture_bytes", 240e12 / 5.8e9, "bytes of a picture as it is stored", "LAION-5B: 240 TB, 5.8 x 10^9 pictures"),
    ("download_pictures", 5.8e9 / (7 * 86400 * 10), "pictures/s downloaded by one machine",
     "img2dataset: 5.8 x 10^9 in 7 days on 10 machines"),
    ("samples_seen", 13e9, "pairs seen by a run with batch 90,000", "names of LAION's checkpoints: s13B-b90k"),
)  # fmt: skip

ASSUMED = (
    ("gpu_price", 2.0, "USD for an hour of one A100", "a round number, not a quotation"),
    ("cpu_price", 0.6, "USD for an hour of a machine of 16 cores", "a round number, not a quotation"),
    ("storage_price", 0.023, "USD for a GB and month of object storage", "a round number, not a quotation"),
    ("gpus_a_machine", 8.0, "GPUs", "the usual machine"),
    ("cores_a_machine", 96.0, "cores beside 8 GPUs", "the usual machine"),
    ("memory_a_machine", 512e9, "bytes of memory of the driver", "the usual machine"),
    ("gpu_memory", 80e9, "bytes of one A100", "its larger variant"),
    ("network", 1.25e9, "bytes/s of one machine", "10 Gbit/s"),
    ("interconnect", 25e9, "bytes/s of one GPU to others", "200 Gbit/s"),
    ("busy", 0.85, "share of the time in which workers work", "starts, stragglers, waits"),
    ("failures", 1 / 10_000, "failures of a machine in an hour", "one in 14 months"),
    ("dim", 768.0, "numbers of a vector", "ViT-L/14"),
    ("shard_rows", 1024.0, "pictures of a shard", "the default of `babelclip index --launcher`"),
    ("text_bytes", 80.0, "bytes of a caption", "some 14 words"),
    ("sample_rate", 256.0, "vectors a partition that an index is trained with", "Lance's default"),
    ("iterations", 50.0, "of k-means", "Lance's default"),
    ("partition_rows", 7500.0, "rows of a partition beyond 10^7 rows", "the policy of `babelclip index`"),
    ("index_overhead", 15.0, "bytes of a row in the index beside one bit a number", "measured once: 95 bytes at 640"),
    ("qps", 100.0, "new queries a second to be served", "a busy public page"),
    ("image_gflop", 162.0, "GFLOP of a picture forward",
     "ViT-L/14 at 224: 304 million weights x 257 tokens x 2, and attention"),
    ("text_gflop", 46.0, "GFLOP of a text forward", "XLM-R-large: 303 million weights x 77 tokens x 2, less 1 %"),
    ("weights", 607e6, "weights that get gradients", "both towers without word vectors"),
    ("word_vectors", 256e6, "weights of word vectors, trained too", "XLM-R: 250,002 x 1,024"),
    ("activation_bytes", 417e6, "bytes kept for the backward pass of one pair, both towers",
     "Korthikanti et al. 2022, eq. 2: s h (34 + 5 a s / h) a layer; 24 x (257 and 77 tokens x 1,024, 16 heads)"),
    ("probes", 64.0, "partitions read for a query of more than 10^7 rows", "the specification's estimate"),
    ("nvme", 3e9, "bytes/s of a local disk", "one NVMe disk"),
    ("known_queries", 0.5, "share of queries whose vector is remembered", "the service keeps 10,000"),
    ("checkpoint_hours", 1.0, "hours between checkpoints", "what a failure loses is half of it"),
)  # fmt: skip

Reader = Callable[[dict[str, Any]], float]
# name, unit, files, how the number is read from the file.
MEASURED: tuple[tuple[str, str, str, Reader], ...] = (
    ("decode_core", "pictures/s decoded and resized by one core, 640x480", "encode-pictures-*.json",
     lambda d: d["sizes"]["640x480"]["rows"]["preprocess, ours, 1 thread"]["pictures_per_second"]),
    ("cpu_pictures", "pictures/s, a ViT of 12 layers x 768 on the measuring machine", "encode-pictures-*.json",
     lambda d: d["sizes"]["640x480"]["rows"]["encode_image, threads"]["pictures_per_second"]),
    ("cpu_texts", "texts/s, XLM-R-base on the measuring machine", "encode-[0-9]*core*.json",
     lambda d: d["rows"]["babelclip auto"]["texts_per_second"]),
    ("cpu_texts_large", "texts/s, XLM-R-large on the measuring machine", "encode-large-*.json",
     lambda d: d["rows"]["babelclip float32"]["texts_per_second"]),
    ("query_seconds", "core-seconds of encoding one query, XLM-R-base", "encode-[0-9]*core*.json",
     lambda d: d["query"]["encode_text"] / 1000 * d["machine"]["cores"]),
    ("gflops", "GFLOP/s of matrix products, float32, the measuring machine", "encode-[0-9]*core*.json",
     lambda d: max(d["matmul"]["float32"])),
    ("translations_core", "texts/s of one core, CTranslate2 int8, beam 1", "translate-[0-9]*core*.json",
     lambda d: rate_of(d["rows"], "ctranslate2 int8, beam 1") / cores_of(d)),
    ("cpu_tokens", "training tokens/s, 12 layers x 768, on the measuring machine", "train-[0-9]*core*.json",
     lambda d: d["tokens_per_second"]["babelclip"]),
    ("search_core", "searches/s of one core, Lance, 200,000 rows", "search-[0-9]*core*.json",
     lambda d: d["backends"]["lance"]["unfiltered"]["threads_2"]["qps"] / 2),
    ("index_core_seconds", "core-seconds a row of writing and indexing", "search-[0-9]*core*.json",
     lambda d: d["backends"]["lance"]["made"]["made_cpu_s"] / d["backends"]["lance"]["rows"]),
    ("target_bytes", "bytes of a target in the store, float16 x 768", "store-*.json",
     lambda d: d["bytes"]["store"] / d["rows"]),
    ("ray_share", "throughput of the launcher ray by that of local", "launchers-*.json",
     lambda d: 1 / (1 + d["overhead"]["ray"])),
    ("row_bytes", "bytes of a row beside its vector: facts and thumbnail", "scale-rows-*.json",
     lambda d: d["bytes_a_row_beside_the_vector"]),
)  # fmt: skip


def rate_of(rows: Iterable[dict[str, Any]], engine: str) -> float:
    """Returns the sentences a second of one engine."""
    return float(next(row["sentences_per_second"] for row in rows if row["engine"] == engine))


def cores_of(record: dict[str, Any]) -> int:
    """Returns the cores of a record whose machine is a line such as "x86_64, 2 cores, load 5.9 before"."""
    return int(record["machine"].split(" cores")[0].split()[-1])


# What stands in for a measured rate where no file has it.
FALLBACK = {
    "ray_share": ("assumed", 0.9, "the bar of issue 9: at most 10 % slower; results/launchers-*.json is not there"),
    "row_bytes": ("assumed", 12_000.0, "a thumbnail of some 10 KB; --collection PATH measures it"),
}


def load_rates(results: Path, given: dict[str, float]) -> dict[str, Rate]:
    """Returns every rate by name: measured ones from the files of `results`, and what `given` says in their place.

    Raises:
        ValueError: a given name is not known, a given value is not positive, or a measured rate is nowhere.
    """
    rates = {name: Rate(name, value, unit, "published", source) for name, value, unit, source in PUBLISHED}
    rates |= {name: Rate(name, value, unit, "assumed", source) for name, value, unit, source in ASSUMED}
    for name, unit, pattern, read in MEASURED:
        rates[name] = measured(results, name, unit, pattern, read, given)
    unknown = sorted(set(given) - set(rates))
    if unknown:
        raise ValueError(f"--set names {', '.join(unknown)}; the rates are {', '.join(sorted(rates))}. Name one.")
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"--set {name}={value}: it must be above 0. Correct it.")
        rates[name] = replace(rates[name], value=value, kind="given", source="--set")
    return rates


def measured(results: Path, name: str, unit: str, pattern: str, read: Reader, given: dict[str, float]) -> Rate:
    """Returns a rate from the newest file that has it, by the date in the name."""
    for path in sorted(results.glob(pattern), key=lambda path: path.stem[-10:], reverse=True):
        try:
            return Rate(name, float(read(json.loads(path.read_text(encoding="utf-8")))), unit, "measured", path.name)
        except (KeyError, StopIteration, TypeError, ValueError):
            continue  # a file of another task that the pattern also fits
    if name in FALLBACK:
        kind, value, source = FALLBACK[name]
        return Rate(name, value, unit, kind, source)
    if name in given:
        return Rate(name, given[name], unit, "given", "--set")
    raise ValueError(f"No file {pattern} in {results} has {name} ({unit}). Give it: --set {name}=VALUE")
