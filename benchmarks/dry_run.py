"""Memory that `babelclip train --dry-run` expects, beside the peak that a run of the same recipe reaches.

    python benchmarks/dry_run.py --out results/dry-run-2core-cpu-2026-11-21.json

Each row is trained in a process of its own, from random weights of published sizes, on random captions of even length;
the peak is that of the process, program included. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORDS = 24
ROWS: dict[str, dict[str, Any]] = {
    "sts, MiniLM's size, 64 pairs": {
        "kind": "sts", "hidden": 384, "layers": 6, "vocabulary": 30522, "train": {"batch_size": 64},
    },
    "tension, MiniLM's size, 32 pairs": {
        "kind": "tension", "hidden": 384, "layers": 6, "vocabulary": 30522,
        "train": {"batch_size": 32, "optimizer": "rmsprop"},
    },
    "distill, e5-small's size, 128 texts, all weights": {
        "kind": "distill", "hidden": 384, "layers": 12, "vocabulary": 80000, "train": {"batch_size": 128},
    },
    "the same, last 4 layers, frozen states kept": {
        "kind": "distill", "hidden": 384, "layers": 12, "vocabulary": 80000, "train": {"batch_size": 128},
        "student": {"trainable": "last 4 layers", "freeze_embeddings": True},
    },
    "the same, all weights, layers computed twice": {
        "kind": "distill", "hidden": 384, "layers": 12, "vocabulary": 80000,
        "train": {"batch_size": 128, "gradient_checkpointing": True},
    },
}  # fmt: skip


def main() -> None:
    """Measures every row, or one where `--row` is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", help="measure one row in this process and print it as JSON")
    given = parser.parse_args()
    if given.row:
        print(json.dumps(measured(ROWS[given.row])))
        return
    rows = []
    for name in ROWS:
        done = subprocess.run([sys.executable, __file__, "--row", name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        row = {"name": name, **json.loads(done.stdout.splitlines()[-1])}
        row["error"] = row["expected"] / row["measured"] - 1
        rows.append(row)
        print(f"{name:<50} expected {row['expected'] / 2**20:6.0f} MiB  measured {row['measured'] / 2**20:6.0f} MiB"
              f"  {100 * row['error']:+.0f} %", flush=True)  # fmt: skip
    from babelclip.train.device import versions

    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {"command": "python benchmarks/dry_run.py", "rows": rows, "versions": versions(), "machine": machine}
    print(json.dumps(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(row: dict[str, Any]) -> dict[str, int]:
    """Returns the bytes that the plan expects at the peak, and those that the run takes."""
    from babelclip.train.plan import plan
    from babelclip.train.recipe import Recipe, recipe_from_dict

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.fork() == 0:  # what making the models takes is not the run's
            _make(folder, row)
            os._exit(0)
        os.wait()
        content = {
            "train": {"kind": row["kind"], "steps": 4, "warmup_steps": 0, "precision": "fp32", "device": "cpu",
                      "lr": 1e-5, **row["train"]},
            "student": {"model": str(folder / "student"), **row.get("student", {})},
            "teacher": {"targets": str(folder / "targets")} if row["kind"] == "distill" else {},
            "data": {"captions": [str(folder / "captions.parquet")]} if row["kind"] != "sts" else {},
            "sts": {"pairs": [str(folder / "sts.csv")]} if row["kind"] == "sts" else {},
        }  # fmt: skip
        recipe: Recipe = recipe_from_dict(content)
        (made,) = plan(recipe, measure=False)
        assert made.memory is not None
        _run(recipe, folder)
    return {"expected": made.memory.peak, "measured": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _run(recipe: Any, folder: Path) -> None:
    from babelclip.train.sts import sts
    from babelclip.train.teach import teach
    from babelclip.train.tension import tension

    entry = {"distill": teach, "sts": sts, "tension": tension}[recipe.train.kind]
    entry(recipe, folder / "run", progress=False)


def _make(folder: Path, row: dict[str, Any]) -> None:
    import numpy as np
    from tokenizers import Tokenizer, models, pre_tokenizers

    from babelclip.data.captions import Captions, write_captions
    from babelclip.models.clip import Clip
    from babelclip.models.text import TextEncoder, build_text_backbone
    from babelclip.models.tokenization import TextTokenizer
    from babelclip.store import EmbeddingStore

    words = {f"w{n}": n for n in range(1000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = {"model_type": "bert", "hidden_size": row["hidden"], "num_hidden_layers": row["layers"],
              "num_attention_heads": 12, "intermediate_size": 4 * row["hidden"],
              "vocab_size": row["vocabulary"], "max_position_embeddings": 512}  # fmt: skip
    text = TextEncoder(
        build_text_backbone(config),
        pooling="mean",
        head=[{"kind": "linear", "out": 512}],
        tokenizer=TextTokenizer(tokenizer, max_length=128, pad_id=0),
    )
    Clip(space="", text=text.eval(), languages=("en",), name="student").save(folder / "student")
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in draw.integers(1, 1000, WORDS)) for _ in range(1024)]
    ids = [str(n) for n in range(len(texts))]
    write_captions(Captions.from_columns(text=texts, lang="en", id=ids), folder / "captions.parquet")
    store = EmbeddingStore.create(folder / "targets", space="x", model="y", dim=512, dtype="float32", normalized=False)
    with store:
        store.append(ids, draw.normal(size=(len(ids), 512)).astype(np.float32))
    lines = [f"g\tf\ty\t{n}\t{n % 6}\t{text}\t{texts[n - 1]}\n" for n, text in enumerate(texts)]
    (folder / "sts.csv").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
