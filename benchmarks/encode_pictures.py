"""Pictures a second: decoding, preprocessing, the model, and `encode_image`, beside transformers on the same weights.

    python benchmarks/encode_pictures.py [--pictures 64] [--rounds 3] [--out results/pictures.json]

Everything in one process and one environment: each row is warmed up, then they take turns (decoding and preprocessing
first, then the rows with a model), and the order turns round by round. The pictures are JPEG files of 640 x 480 and of
2000 x 1500 (a quarter as many), smooth colours with grain, the same in every run; the model is a ViT-B/32 of random
weights. Before anything is timed, our pixels must equal those of transformers' processor bit for bit, and our vectors
must point where its model's do (cosine 0.9999). Tables and bars go to standard error, one JSON line to standard output.
Bars are stated, not enforced: the exit code is 0. It takes two or three minutes on two cores.

A row of decoding or preprocessing alone has its input in memory or in the page cache. Processes (`workers=`) are
started anew in every call, and the row has their start in it. "One lane" lets torch share every matrix among all cores,
where babelclip gives each core batches of its own. "cores" is processor time by time, of child processes too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from encode import load_average, machine, ratio, say
from PIL import Image

from babelclip.models import image
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf
from babelclip.models.decoding import EncodeReport, decoder_pool
from babelclip.models.encoding import in_lanes
from babelclip.models.preprocess import open_picture

SIZES = ((640, 480), (2000, 1500))
BASE = {"layers": 12, "width": 768, "heads": 12, "mlp": 3072, "dim": 512}
OURS, THEIRS = "preprocess, ours", "preprocess, transformers"
MODEL, FORWARD = "model, ours", "model, plain torch forward"
WHOLE, PEER = "encode_image", "transformers, processor and forward"
PARTS = ("decode", "preprocess")
PART_ROUNDS = 2  # for each round of the rows with a model, which take ten times as long
Row = Callable[[], Any]


# What is measured


def write_pictures(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Writes JPEG files of smooth colours with grain, which neither resize nor compress like flat ones or noise."""
    rng = np.random.default_rng(width)
    y, x = np.mgrid[0:height, 0:width]
    files = []
    for number in range(count):
        bands = []
        for _ in range(3):
            across, down, phase = rng.uniform(0.05, 0.6, size=3)
            bands.append(127 + 90 * np.sin(across * x + down * y + 6 * phase) + rng.uniform(-30, 30, (height, width)))
        files.append(folder / f"{width}x{height}-{number}.jpg")
        pixels = np.clip(np.stack(bands, axis=-1), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(files[-1], "JPEG", quality=90)
    return files


def build(size: dict[str, int]) -> tuple[image.ImageEncoder, Any]:
    """Returns our tower and transformers' model with the same random weights."""
    import transformers

    config = {
        "hidden_size": size["width"], "num_hidden_layers": size["layers"], "num_attention_heads": size["heads"],
        "intermediate_size": size["mlp"], "projection_dim": size["dim"], "image_size": 224, "patch_size": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    backbone = image.build_image_backbone({"model_type": "clip_vision_model", **config})
    head = [{"kind": "linear", "out": size["dim"], "bias": False}]
    ours = image.ImageEncoder(backbone, head=head, preprocess=preprocess_from_hf({})).eval()
    theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config)).eval()
    weights = {f"vision_model.{name}": value for name, value in ours.backbone.state_dict().items()}
    weights["visual_projection.weight"] = next(ours.head.parameters())
    theirs.load_state_dict(weights)
    return ours, theirs


def pil_processor() -> Any:
    """Returns transformers' CLIP processor that works with Pillow: version 5 gave it a name of its own."""
    import transformers

    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


class Bench:
    """The rows of one picture size."""

    def __init__(self, files: list[Path], towers: tuple[image.ImageEncoder, Any], batch: int, workers: int) -> None:
        """Takes the files, our tower and theirs, pictures a forward pass, and worker processes."""
        self.files, self.batch, self.workers = files, batch, workers
        self.ours, self.theirs = towers
        self.threads = torch.get_num_threads()
        self.processor = pil_processor()()
        self.reports: dict[str, EncodeReport] = {}

    def rows(self, pool: ThreadPoolExecutor, *, model: bool) -> dict[str, Row]:
        """Returns what to time by its name; `model` adds the rows that picture size changes nothing about."""
        pictures = [open_picture(file) for file in self.files]
        many, ours, theirs = f"{self.threads} threads", self.ours.preprocess, self.processor
        rows: dict[str, Row] = {
            "decode, 1 thread": lambda: [open_picture(file) for file in self.files],
            f"decode, {many}": lambda: list(pool.map(open_picture, self.files)),
            f"{OURS}, 1 thread": lambda: np.stack([ours(picture) for picture in pictures]),
            f"{OURS}, {many}": lambda: np.stack(list(pool.map(ours, pictures))),
            f"{THEIRS}, one call": lambda: theirs(pictures, return_tensors="np")["pixel_values"],
            f"{THEIRS}, {many}": lambda: np.concatenate(
                list(pool.map(lambda picture: theirs(picture, return_tensors="np")["pixel_values"], pictures))
            ),
            f"{WHOLE}, threads": lambda: self.encode("threads"),
            f"{WHOLE}, one lane": self.one_lane,
            PEER: self.peer,
        }
        if model:
            pixels = torch.from_numpy(rows[f"{OURS}, 1 thread"]())
            rows[f'{WHOLE}, devices=["cpu"] x {self.threads}'] = lambda: self.encode(
                "devices", devices=["cpu"] * self.threads
            )
            if self.workers:
                rows[f"{WHOLE}, workers={self.workers}"] = lambda: self.encode("workers", workers=self.workers)
            rows[MODEL] = lambda: self.lanes(pixels)
            rows[FORWARD] = lambda: self.forward(pixels)
        return rows

    def encode(self, name: str, **settings: Any) -> np.ndarray:
        """Returns the vectors of the files."""
        return self.ours.encode(
            self.files, batch_size=self.batch, report=lambda report: self.reports.update({name: report}), **settings
        )

    def one_lane(self) -> np.ndarray:
        """Like `encode`, one batch at a time on all cores. No setting says so: from 2 batches a core on, lanes run."""
        with patch.object(image, "in_lanes", _one_after_the_other):
            return self.encode("one lane")

    def lanes(self, pixels: torch.Tensor) -> None:
        """Our model on pixels that are there."""
        with torch.inference_mode():
            in_lanes(lambda tower, part: tower(part), pixels.split(self.batch), [self.ours])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Theirs, in a plain loop."""
        with torch.inference_mode():
            return torch.cat([self.theirs(part).image_embeds for part in pixels.split(self.batch)])

    def peer(self) -> np.ndarray:
        """What a program with transformers does: open, process and encode, batch after batch."""
        found = []
        for start in range(0, len(self.files), self.batch):
            pictures = [Image.open(file) for file in self.files[start : start + self.batch]]
            found.append(self.forward(self.processor(pictures, return_tensors="pt")["pixel_values"]).numpy())
        features = np.concatenate(found)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def check(self, rows: dict[str, Row]) -> float:
        """Returns the smallest cosine between our vectors and theirs; stops where pixels or vectors differ."""
        theirs = rows[f"{THEIRS}, one call"]()
        for name in (f"{OURS}, 1 thread", f"{OURS}, {self.threads} threads", f"{THEIRS}, {self.threads} threads"):
            found = rows[name]()
            if found.dtype != theirs.dtype or not np.array_equal(found, theirs):
                raise SystemExit(f"The pixels of {name!r} are not those of transformers' processor.")
        cosine = float((self.encode("check") * self.peer()).sum(axis=1).min())
        if cosine < 0.9999:
            raise SystemExit(f"Our vectors are not those of transformers' model: the smallest cosine is {cosine:.6f}.")
        return cosine


def _one_after_the_other(work: Callable[[Any, Any], None], items: Any, towers: list[Any]) -> None:
    for item in items:
        work(towers[0], item)


# Measuring


def processor_seconds() -> float:
    """Returns the processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def measure(rows: dict[str, Row], rounds: int, count: int, title: str) -> dict[str, dict[str, Any]]:
    """Returns the columns of each row; the order turns from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    cores: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds):
        say(f"{title}: round {number + 1} of {rounds}, load average {load_average()}")
        for name in list(rows)[:: -1 if number % 2 else 1]:
            used, start = processor_seconds(), time.perf_counter()
            rows[name]()
            seconds[name].append(time.perf_counter() - start)
            cores[name].append((processor_seconds() - used) / seconds[name][-1])
    return {
        name: {
            "pictures_per_second": count / statistics.median(taken),
            "spread": [count / max(taken), count / min(taken)],
            "milliseconds": 1e3 * statistics.median(taken) / count,
            "cores": statistics.median(cores[name]),
            "seconds": taken,
        }
        for name, taken in seconds.items()
    }


def measure_size(
    files: list[Path], towers: tuple[image.ImageEncoder, Any], chosen: argparse.Namespace, *, model: bool
) -> dict[str, Any]:
    """Returns the rows of one picture size and what was checked."""
    threads = torch.get_num_threads()
    # At least two batches a core, from which on lanes run.
    batch = max(1, min(chosen.batch_size, len(files) // (2 * threads)))
    bench, title = Bench(files, towers, batch, chosen.workers), files[0].name.partition("-")[0]
    with ThreadPoolExecutor(threads) as pool:
        few = Bench(files[: 2 * threads], towers, 1, 0)
        for row in few.rows(pool, model=model).values():
            row()  # warmed up
        rows = bench.rows(pool, model=model)
        cosine = bench.check(rows)
        parts = {name: row for name, row in rows.items() if name.startswith(PARTS)}
        found = measure(parts, PART_ROUNDS * chosen.rounds, len(files), f"{title}, decode and preprocess")
        rest = {name: row for name, row in rows.items() if name not in parts}
        found |= measure(rest, chosen.rounds, len(files), f"{title}, model and encode_image")
    waits = {name: {"decode_wait": report.decode_wait, "model_seconds": report.model_seconds,
                    "bottleneck": report.bottleneck} for name, report in bench.reports.items()}  # fmt: skip
    return {"pictures": len(files), "bytes": sum(file.stat().st_size for file in files), "batch_size": batch,
            "bit_equal": True, "min_cosine": cosine, "rows": found, "waits": waits}  # fmt: skip


def start_of_workers(workers: int) -> float | None:
    """Returns the seconds from asking for processes until each has answered."""
    if not workers:
        return None
    start = time.perf_counter()
    with decoder_pool(workers, workers) as pool:
        list(pool.map(abs, range(workers)))
        return time.perf_counter() - start


def bars(sizes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns every bar with its value and verdict. Pixels are equal bit for bit, else there was nothing to time."""
    threads, found = torch.get_num_threads(), []
    for title, size in sizes.items():
        for ours in dict.fromkeys(("1 thread", f"{threads} threads")):
            value = ratio(size["rows"], f"{OURS}, {ours}", f"{THEIRS}, one call")
            found.append({
                "bar": f"{title}: preprocess, ours in {ours} / transformers in one call, bit-equal",
                "limit": ">= 2",
                "value": value,
                "verdict": "not measured" if value is None else "met" if value >= 2 else "not met",
            })  # fmt: skip
    return found


def times_as_fast(sizes: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Returns the comparisons without a bar."""
    threads, found = torch.get_num_threads(), {}
    for title, size in sizes.items():
        same = (f"{OURS}, {threads} threads", f"{THEIRS}, {threads} threads")
        pairs = [(f"{WHOLE}, threads", PEER), (f"{WHOLE}, threads", f"{WHOLE}, one lane"), same, (MODEL, FORWARD)]
        for ours, theirs in pairs:
            if ours in size["rows"] and theirs in size["rows"]:
                found[f"{title}: {ours} / {theirs}"] = ratio(size["rows"], ours, theirs)
    return found


# What is printed


def show(record: dict[str, Any]) -> None:
    """Prints tables and bars, on stderr: standard output has the JSON."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, width=140)
    for title, size in record["sizes"].items():
        table = Table(title=f"{size['pictures']} pictures of {title}, batches of {size['batch_size']}, "
                      f"{record['machine']['cpu']}, {record['threads']} threads")  # fmt: skip
        for column in ("row", "pictures/s", "spread", "ms a picture", "cores"):
            table.add_column(column, justify="left" if column == "row" else "right")
        for name, row in size["rows"].items():
            low, high = row["spread"]
            table.add_row(name.replace("[", r"\["), f"{row['pictures_per_second']:,.1f}", f"{low:,.1f}-{high:,.1f}",
                          f"{row['milliseconds']:.2f}", f"{row['cores']:.1f}")  # fmt: skip
        console.print(table)
    if record["worker_start_seconds"]:
        console.print(f"{record['workers']} worker processes start in {record['worker_start_seconds']:.2f} s")
    if record["busy"]:
        console.print(
            f"BUSY: the model's rows got {record['cores_used']:.1f} of {record['threads']} cores, other programs the "
            "rest. Rows suffer from that unequally, so the verdicts below say little: run it again on an idle machine."
        )
    for name, value in record["times_as_fast"].items():
        console.print(f"{name}: {value:.2f} times as fast")
    for each in record["bars"]:
        value = "-" if each["value"] is None else f"{each['value']:.2f}"
        console.print(f"{each['bar']}: {value} ({each['limit']}) {each['verdict']}")


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64, help="of 640 x 480; a quarter as many of 2000 x 1500")
    parser.add_argument("--rounds", type=int, default=3, help="of the rows with a model; the others get twice as many")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures a forward pass, at most")
    parser.add_argument("--workers", type=int, default=2, help="processes of the row with processes; 0 for no such row")
    for name, usual in BASE.items():
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"of the model; ViT-B/32 has {usual}")
    parser.add_argument("--out", type=Path, help="where the JSON goes, beside standard output")
    return parser.parse_args(given)


@contextlib.contextmanager
def pictures_of_all_sizes(count: int) -> Iterator[dict[str, list[Path]]]:
    """Yields the files by size; they are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="babelclip-pictures-") as place:
        say("writing pictures")
        counts = (count, max(1, count // 4))
        yield {f"{w}x{h}": write_pictures(Path(place), n, w, h) for n, (w, h) in zip(counts, SIZES, strict=True)}


def main(given: list[str] | None = None) -> int:
    """Builds, measures, prints."""
    chosen, start, busy = arguments(given), time.time(), load_average()
    size, threads = {name: getattr(chosen, name) for name in BASE}, torch.get_num_threads()
    with pictures_of_all_sizes(chosen.pictures) as files:
        towers = build(size)
        sizes = {
            title: measure_size(each, towers, chosen, model=number == 0)
            for number, (title, each) in enumerate(files.items())
        }
        started = start_of_workers(chosen.workers)
    first = next(iter(sizes.values()))["rows"]
    used = statistics.median(first[name]["cores"] for name in (MODEL, FORWARD, f"{WHOLE}, threads"))
    record = {
        "benchmark": "encode_pictures",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "threads": threads,
        "load_average": [busy, load_average()],
        "versions": {
            "python": sys.version.split()[0],
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "pillow", "numpy")},
        },
        "model": size,
        "processor": f"{pil_processor().__module__}.{pil_processor().__name__}",
        "workers": chosen.workers,
        "worker_start_seconds": started,
        "rounds": chosen.rounds,
        "sizes": sizes,
        "times_as_fast": times_as_fast(sizes),
        "busy": used < 0.85 * threads,
        "cores_used": used,
        "bars": bars(sizes),
        "seconds": round(time.time() - start, 1),
    }
    show(record)
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
