"""Peak memory of captions to vectors on disk, for 100,000 and 1,000,000 captions: it must not depend on their number.

    python benchmarks/embed_memory.py [--captions 100000 1000000] [--out results/embed-memory.json]

Captions with ids are written as JSONL and as Parquet (one row group), and embedded by `babelclip.data.embed.embed_file`
with a BERT of random weights (width 32, 1 layer, vectors of 64 numbers, float16) in a fresh process with one thread,
counts in turn. Peak memory is VmHWM: all that the process ever held, imports included. The bar: the peak of the
most captions is at most 5 % above that of the fewest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

BAR = 1.05
WORDS = "a red blue green dog cat two small house on the hill with snow and children who play".split()


def caption_text(row: int) -> str:
    """A caption of 3 to 9 words, different from all others."""
    return " ".join(WORDS[(row * (k + 3) + row // 17) % len(WORDS)] for k in range(3 + row % 7)) + f" {row}"


def write_files(folder: Path, count: int) -> None:
    """Writes captions.jsonl and captions.parquet with `count` captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for row in range(count):
            file.write(json.dumps({"id": f"caption-{row:09d}", "text": caption_text(row), "lang": "en"}) + "\n")
    table = pa.table(
        {
            "id": [f"caption-{row:09d}" for row in range(count)],
            "text": [caption_text(row) for row in range(count)],
            "lang": ["en"] * count,
        }
    )
    pq.write_table(table, folder / "captions.parquet", row_group_size=count)


def embed(source: Path, out: Path) -> None:
    """Runs in the fresh process: embeds `source` and prints what it took."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    from babelclip.data.embed import embed_file
    from babelclip.models.clip import Clip
    from babelclip.models.text import TextEncoder, build_text_backbone
    from babelclip.models.tokenization import TextTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = {word: row for row, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 32,
    }
    tower = TextEncoder(
        build_text_backbone(config),
        pooling="mean",
        head=[{"kind": "linear", "out": 64}],
        tokenizer=TextTokenizer(words, max_length=16, pad_id=0),
    )
    clip = Clip(space="test/memory", text=tower.eval(), image=None, logit_scale=1.0, name="memory")
    before = _status("VmHWM")
    start = time.perf_counter()
    store = embed_file(clip, source, out)
    seconds = time.perf_counter() - start
    facts = {"rows": len(store), "peak": _status("VmHWM"), "before": before, "seconds": round(seconds, 2)}
    sys.stdout.write(json.dumps(facts) + "\n")


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(counts: list[int]) -> list[dict[str, object]]:
    """Returns one row for each count and format, counts in turn."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            write_files(Path(name) / str(count), count)
        for kind in ("jsonl", "parquet"):
            for count in counts:
                source = Path(name) / str(count) / f"captions.{kind}"
                command = [sys.executable, __file__, "--embed", str(source), str(Path(name) / f"store-{kind}-{count}")]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                facts = json.loads(done.stdout.splitlines()[-1])
                if facts["rows"] != count:
                    raise SystemExit(f"{source}: {facts['rows']} rows in the store")
                rows.append({"format": kind, "captions": count, "file_bytes": source.stat().st_size, **facts})
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--embed", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.embed:
        embed(*given.embed)
        return
    rows = measure(sorted(given.captions))
    sys.stdout.write("| format | captions | peak, MB | of it before, MB | texts/s |\n|---|---:|---:|---:|---:|\n")
    for row in rows:
        peak, before, speed = row["peak"] / 1e6, row["before"] / 1e6, row["captions"] / row["seconds"]
        sys.stdout.write(f"| {row['format']} | {row['captions']:,} | {peak:.1f} | {before:.1f} | {speed:,.0f} |\n")
    growth = {
        kind: round(peaks[-1] / peaks[0], 4)
        for kind in ("jsonl", "parquet")
        if (peaks := [row["peak"] for row in rows if row["format"] == kind])
    }
    result = {
        "benchmark": "embed_memory",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "pyarrow")},
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
