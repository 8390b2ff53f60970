"""Peak memory and speed of `open_captions` on sources of about 1 GB: a part is held, never the source.

    python benchmarks/captions_memory.py [--megabytes 1000] [--kinds jsonl parquet tmx tar] [--out results/x.json]

Of each kind a file of a tenth of the size and one of the whole are written, and each is read to its end in a fresh
process. Peak memory is VmHWM: all that the process ever held, imports included. The bar: the peak of the whole is at
most 64 MB above that of the tenth. Parquet is one row group of random letters, so that a reader cannot hide behind
small groups; the pictures of the tar are 40 KB of random bytes each.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

BAR = 64e6
WORDS = "a red blue green dog cat two small house on the hill with snow and children who play".split()


def caption_text(row: int) -> str:
    """A caption of about 100 characters, different from all others."""
    return f"{row:x} " + " ".join(WORDS[(row * (k + 3) + row // 17) % len(WORDS)] for k in range(20))


def write_jsonl(path: Path, size: int) -> None:
    """Writes captions with ids until the file has `size` bytes."""
    with path.open("w", encoding="utf-8") as file:
        row = 0
        while file.tell() < size:
            for _ in range(10_000):
                file.write(json.dumps({"id": f"c{row}", "text": caption_text(row), "lang": "en"}) + "\n")
                row += 1


def write_parquet(path: Path, size: int) -> None:
    """Writes one row group of texts that do not compress; memory is not the matter here."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = size // 108
    letters = np.frombuffer(np.random.default_rng(0).bytes(rows * 50), np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.empty((rows, 100), np.uint8)
    text[:, ::2], text[:, 1::2] = digits[letters.reshape(rows, 50) >> 4], digits[letters.reshape(rows, 50) & 15]
    offsets = np.arange(rows + 1, dtype=np.int64) * 100
    texts = pa.LargeStringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))
    ids = pa.array(np.arange(rows))
    langs = pa.array(["en"]).take(pa.array(np.zeros(rows, np.int64)))
    table = pa.table({"id": ids, "text": texts, "lang": langs})
    pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)


def write_tmx(path: Path, size: int) -> None:
    """Writes units of English and Swedish."""
    with path.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0"?>\n<tmx version="1.4"><header srclang="en"/><body>\n')
        row = 0
        while file.tell() < size:
            for _ in range(10_000):
                texts = (("en", caption_text(row)), ("sv", caption_text(row) + " &amp;"))
                inner = "".join(f'<tuv xml:lang="{lang}"><seg>{text}</seg></tuv>' for lang, text in texts)
                file.write(f"<tu>{inner}</tu>\n")
                row += 1
        file.write("</body></tmx>\n")


def write_tar(path: Path, size: int) -> None:
    """Writes samples of a picture, its text and its facts."""
    with tarfile.open(path, "w") as archive:
        for row in range(size // 43_000):
            for name, content in (
                (f"{row:09d}.jpg", os.urandom(40_000)),
                (f"{row:09d}.txt", caption_text(row).encode()),
                (f"{row:09d}.json", b'{"lang": "en"}'),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            archive.members = []


WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet, "tmx": write_tmx, "tar": write_tar}


def read(source: str) -> None:
    """Runs in the fresh process: reads `source` to its end and prints what it took."""
    from babelclip.data.sources import open_captions

    before, start = _peak(), time.perf_counter()
    rows = sum(len(part) for part in open_captions(source))
    facts = {"rows": rows, "peak": _peak(), "before": before, "seconds": round(time.perf_counter() - start, 2)}
    sys.stdout.write(json.dumps(facts) + "\n")


def _peak() -> int:
    """Bytes that this process held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(kinds: list[str], size: int) -> list[dict[str, object]]:
    """Returns one row a kind and size."""
    rows: list[dict[str, object]] = []
    for kind in kinds:
        for part in (size // 10, size):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"captions.{kind}"
                # In a process of its own, so that what writing holds does not count, and is given back.
                subprocess.run([sys.executable, __file__, "--write", kind, str(path), str(part)], check=True)
                command = [sys.executable, __file__, "--read", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                facts = json.loads(done.stdout.splitlines()[-1])
                rows.append({"kind": kind, "file_bytes": path.stat().st_size, **facts})
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=sorted(WRITERS), default=list(WRITERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        WRITERS[given.write[0]](Path(given.write[1]), int(given.write[2]))
        return
    if given.read:
        read(given.read)
        return
    rows = measure(given.kinds, given.megabytes * 1_000_000)
    sys.stdout.write(
        "| kind | file, MB | captions | peak, MB | of it before, MB | captions/s |\n|---|---:|---:|---:|---:|---:|\n"
    )
    for row in rows:
        size, peak, before = row["file_bytes"] / 1e6, row["peak"] / 1e6, row["before"] / 1e6
        speed = row["rows"] / max(row["seconds"], 0.01)
        sys.stdout.write(
            f"| {row['kind']} | {size:,.0f} | {row['rows']:,} | {peak:.0f} | {before:.0f} | {speed:,.0f} |\n"
        )
    growth = {
        kind: peaks[1] - peaks[0] for kind in given.kinds if (peaks := [r["peak"] for r in rows if r["kind"] == kind])
    }
    result = {
        "benchmark": "captions_memory",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("numpy", "pyarrow")},
        "load_average": os.getloadavg()[1],  # seconds count only where this is about 1
        "bar": BAR,
        "peak_growth": growth,
        "holds": all(value <= BAR for value in growth.values()),
        "rows": rows,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
