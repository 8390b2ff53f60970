"""Training pairs a second out of tars, and whether each comes once: `data.stream`, rows at random, and webdataset.

    PYTHONPATH=. python benchmarks/stream.py [--pictures 3000] [--rounds 3] [--out results/stream-….json]

Pictures lie in nine tars of very unequal size. In one process, the same pictures, decoding and
preprocessing, tokens included: tars shard by shard as `data.stream = true` reads them, rows in any order as
`data.stream = false` does, and webdataset (where it is installed) with a DataLoader of two workers. Then, for two
processes of two workers: how many pictures each process gets in an epoch, how many steps, how many pictures come
twice or never. And what the order of LAION-size data costs: a batch of 90,000 out of 10^9 rows in 10^5 tars.

Tables go to standard error, one JSON line to standard output.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from encode import machine, say
from PIL import Image

from babelclip.evaluate.result import versions
from babelclip.files import write_json
from babelclip.models.preprocess import Preprocess, open_picture
from babelclip.train.processes import connect
from babelclip.train.recipe import Recipe, Train, apply_overrides
from babelclip.train.shard_order import ShardOrder
from babelclip.train.tar_batches import TarBatches
from babelclip.train.tar_shards import TarShards
from tests.conftest import make_text_encoder

SHARES = (0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.015, 0.005)
BATCH = 64
PIXELS = Preprocess(resize=224, crop=224)


def write_tars(folder: Path, pictures: int) -> None:
    """Writes JPEG files of 320 x 240 with captions into tars of unequal size."""
    rng, number = np.random.default_rng(0), 0
    for shard, share in enumerate(SHARES):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for _ in range(max(round(share * pictures), 1)):
                small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((320, 240))
                buffer = io.BytesIO()
                small.save(buffer, "jpeg", quality=90)
                for name, content in ((f"{number:06}.jpg", buffer.getvalue()), (f"{number:06}.txt", b"a red circle")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                number += 1


def shard_by_shard(shards: TarShards) -> Iterator[int]:
    """Yields the rows of each batch as it is there."""
    recipe = apply_overrides(Recipe(), [f"train.batch_size={BATCH}", "data.lanes=4", "data.window=1024"])
    with ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0)))) as pool:
        batches = TarBatches(shards, make_text_encoder(), PIXELS, pool, recipe)
        for rows in batches.plan(0):
            yield len(batches.load(rows)["pixels"])
        batches.close()


def at_random(folder: Path, shards: TarShards) -> Iterator[int]:
    """The same by `shard.tar::member` in any order, as rows that lie in memory are trained on."""
    names = [
        f"{tar.path}::{name}"
        for tar in shards.shards
        for name in sorted(tarfile.open(tar.path).getnames())
        if name.endswith(".jpg")
    ]
    text = make_text_encoder()
    order = np.random.default_rng(0).permutation(len(names))
    with ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0)))) as pool:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            text.pad(text.tokenize(["a red circle"] * len(rows)))
            pixels = np.stack(list(pool.map(lambda row: PIXELS(open_picture(names[row])), rows)))
            yield len(torch.from_numpy(pixels))


def decoded(sample: dict[str, Any]) -> tuple[str, np.ndarray]:
    """What webdataset's workers do with a sample."""
    return sample["__key__"], PIXELS(Image.open(io.BytesIO(sample["jpg"])))


def their_loader(folder: Path, workers: int, decode: bool) -> Any:
    """Returns webdataset's pipeline for one process, in the manner that open_clip uses for an epoch without repeats."""
    import webdataset

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    parts = [
        webdataset.SimpleShardList(tars, seed=0),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(1000),
        webdataset.map(decoded if decode else lambda sample: (sample["__key__"], np.zeros(1))),
        webdataset.batched(BATCH, partial=True),
    ]
    return webdataset.WebLoader(webdataset.DataPipeline(*parts), batch_size=None, num_workers=workers)


def of_webdataset(folder: Path) -> Iterator[int]:
    """Yields the rows of each batch as it is there."""
    for keys, _ in their_loader(folder, 2, True):
        yield len(keys)


def rates(ways: dict[str, Any], rounds: int) -> dict[str, float]:
    """Returns the median of pictures a second of each way, which take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for place in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            pictures = sum(way())
            if place:
                found[name].append(pictures / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in found.items()}


def of_two_processes(folder: Path, shards: TarShards) -> dict[str, Any]:
    """Returns what each of two processes with two workers gets in one epoch."""
    total = int(shards.sizes.sum())
    order = ShardOrder(shards.sizes, batch_size=BATCH, epoch=0, seed=0, lanes=4, window=1024)
    ours = [[np.array_split(rows, 2)[rank] for rows in order] for rank in (0, 1)]
    seen = Counter(np.concatenate([rows for share in ours for rows in share]).tolist())
    found = {"data.stream": told([[len(rows) for rows in share] for share in ours], seen, total)}
    if importlib.util.find_spec("webdataset"):
        keys: list[str] = []
        lengths = []
        for rank in (0, 1):
            with patch.dict(os.environ, RANK=str(rank), WORLD_SIZE="2"):
                batches = [list(batch[0]) for batch in their_loader(folder, 2, False)]
            keys += [key for batch in batches for key in batch]
            lengths.append([len(batch) for batch in batches])
        found["webdataset"] = told(lengths, Counter(keys), total)
    return found


def told(lengths: list[list[int]], seen: Counter[Any], total: int) -> dict[str, Any]:
    """Returns pictures and steps of each process, and how many pictures came twice or never."""
    return {
        "pictures": [sum(each) for each in lengths],
        "steps": [len(each) for each in lengths],
        "twice": sum(count > 1 for count in seen.values()),
        "never": total - len(seen),
    }


def large_order() -> dict[str, float]:
    """Returns the seconds that the order of 10^9 rows in 10^5 tars takes, of an epoch and of a batch of 90,000."""
    started = time.perf_counter()
    order = ShardOrder([10_000] * 100_000, batch_size=90_000, epoch=0, seed=0, lanes=1024, window=1 << 21)
    whole = time.perf_counter() - started
    took = []
    for step in range(5):
        started = time.perf_counter()
        order[step * 1000]
        took.append(time.perf_counter() - started)
    return {"epoch": whole, "batch": statistics.median(took), "steps": len(order)}


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "tars")
        folder.mkdir()
        write_tars(folder, args.pictures)
        processes = connect(Train(device="cpu", precision="fp32"))
        started = time.perf_counter()
        shards = TarShards.open([str(folder)], Path(scratch, "found"), processes, lang="en", progress=False)
        looked = time.perf_counter() - started
        ways = {"data.stream": lambda: shard_by_shard(shards), "rows at random": lambda: at_random(folder, shards)}
        if importlib.util.find_spec("webdataset"):
            ways["webdataset, 2 workers"] = lambda: of_webdataset(folder)
        speed = rates(ways, args.rounds)
        split = of_two_processes(folder, shards)
    order = large_order()
    result = {
        "command": f"PYTHONPATH=. python benchmarks/stream.py --pictures {args.pictures} --rounds {args.rounds}",
        "pictures_per_second": speed,
        "pictures": int(shards.sizes.sum()),
        "looking_into_tars_pictures_per_second": shards.sizes.sum() / looked,
        "two_processes": split,
        "order_of_1e9_rows_seconds": order,
        "machine": machine(),
        "versions": versions(),
    }
    for name, value in speed.items():
        say(f"{name:24} {value:8.1f} pictures/s")
    for name, value in split.items():
        say(f"{name:24} {value}")
    say(f"order of 10^9 rows: {order}")
    if args.out:
        write_json(args.out, result)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
