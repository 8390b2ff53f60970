"""The long commands that `reliability.py` disturbs: how each is started, and what it leaves.

A tiny random model keeps the work short, so that a run is mostly what a kill can hit: reading, writing, renaming.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CAPTIONS, PICTURES = 500, 100
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle")
# Never compared: a lock holds the number of a process, timings are seconds.
PASSING = (".lock", "timings.jsonl")


@dataclass(frozen=True)
class Job:
    """A command that is disturbed.

    Attributes:
        name: what it is called in the record.
        arguments: gives those of `babelclip` for an output folder.
        digest: what its finished output holds, by part; equal outputs give equal digests.
        suffix: what the name of its output ends in.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    digest: Callable[[Path], dict[str, str]]
    suffix: str = ""


def files(out: Path) -> dict[str, str]:
    """Returns SHA-256 by file of a folder."""
    found = (file for file in sorted(out.rglob("*")) if file.is_file() and file.name not in PASSING)
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def model_files(out: Path) -> dict[str, str]:
    """Returns the digests of the weights of a run; logs and cards hold seconds."""
    return {name: value for name, value in files(out / "model").items() if name.endswith((".safetensors", ".json"))}


def results(out: Path) -> dict[str, str]:
    """Returns the figures of an evaluation, without seconds and dates."""
    found = {}
    for file in sorted(out.glob("*.json")):
        kept = ("language", "direction", "metrics", "intervals")
        rows = [{name: row[name] for name in kept} for row in json.loads(file.read_text())]
        found[file.name] = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return found


def collection_rows(out: Path) -> dict[str, str]:
    """Returns the rows of a collection by id; vectors to three decimals, as batches may be cut otherwise."""
    from babelclip.search.collection import open_collection

    found = {}
    opened = open_collection(out)
    for batch in opened.scan(columns=["id", "path", "bytes", "sha256"], with_vectors=True):
        for row in batch.to_pylist():
            if row["id"] in found:
                raise RuntimeError(f"{out} holds {row['id']} twice")
            vector = np.round(np.asarray(row.pop("vector"), np.float32), 3) + 0.0
            found[row["id"]] = f"{json.dumps(row)} {hashlib.sha256(vector.tobytes()).hexdigest()}"
    opened.close()
    return found


def make_inputs(folder: Path) -> None:
    """Writes a tiny model, captions in three languages, pictures, a dictionary, stores and a recipe into `folder`."""
    from babelclip.data.captions import Captions
    from babelclip.data.embed import embed_captions
    from tests.conftest import draw_shape, make_clip

    folder.mkdir(parents=True, exist_ok=True)
    clip = make_clip()
    clip.save(folder / "model")
    random = np.random.default_rng(0)
    words = "a the red green blue circle square star dog cat".split()
    english = [f"{' '.join(random.choice(words, 5))} {number}" for number in range(CAPTIONS)]
    rows = [{"id": f"c{n}", "text": text, "lang": "en"} for n, text in enumerate(english)]
    _write(folder / "captions.jsonl", rows)
    taught = [
        {"id": f"c{n}-{lang}", "text": f"{lang} {text}", "lang": lang, "source_id": f"c{n}"}
        for n, text in enumerate(english)
        for lang in ("sv", "de")
    ]
    _write(folder / "dictionary.jsonl", [*rows, *taught])
    (folder / "pictures").mkdir(exist_ok=True)
    named = []
    for number in range(PICTURES):
        colour, shape = COLOURS[number % 4], SHAPES[number % 3]
        draw_shape(colour, shape, 40 + number).save(folder / "pictures" / f"{number:03d}.png")
        text = f"{colour} {shape} {number}"
        named.append({"id": f"p{number}", "text": text, "lang": "en", "image": f"{number:03d}.png"})
    _write(folder / "pictures" / "captions.jsonl", named)
    for name, begin, end in (("store-a", 0, 260), ("store-b", 260, CAPTIONS), ("targets", 0, CAPTIONS)):
        ids = [f"c{number}" for number in range(begin, end)]
        captions = Captions.from_columns(id=ids, text=english[begin:end], lang="en")
        embed_captions(clip, captions, folder / name, shard_rows=24).close()
    (folder / "recipe.toml").write_text(_RECIPE.format(folder=folder), encoding="utf-8")


_RECIPE = """
[train]
kind = "distill"
steps = 40
batch_size = 32
lr = 1e-3
precision = "fp32"
device = "cpu"
save_every = 4
validate_every = 0
[student]
model = "{folder}/model"
dropout = 0.1
[teacher]
targets = "{folder}/targets"
[data]
captions = ["{folder}/dictionary.jsonl"]
"""


def jobs(inputs: Path) -> list[Job]:
    """Returns the commands."""
    model, captions = str(inputs / "model"), str(inputs / "captions.jsonl")

    def job(name: str, digest: Callable[[Path], dict[str, str]], *arguments: Any, suffix: str = "") -> Job:
        return Job(name, lambda out: [str(part) for part in arguments] + ["--out", str(out)], digest, suffix)

    pictures = inputs / "pictures"
    translate = ("translate", captions, "--to", "sv,de", "--engine", "dictionary", "--plan", "all", "--rows", 40)
    return [
        job("embed captions", files, "embed", captions, "--model", model, "--shard-rows", 16),
        job("embed pictures", files, "embed", pictures, "--model", model, "--shard-rows", 8),
        job("index", collection_rows, "index", pictures, "--model", model, "--no-groups", suffix=".lance"),
        job("translate", files, *translate, "--dictionary", inputs / "dictionary.jsonl", "--no-filter", "all"),
        job("train", model_files, "train", inputs / "recipe.toml", "--resume"),
        job("evaluate", results, "evaluate", model, "--captions", pictures / "captions.jsonl", "--cache", "none"),
        job("store merge", files, "store", "merge", inputs / "store-a", inputs / "store-b"),
        job("export", files, "export", model, "--to", "mclip", "--towers", "text", "--overwrite"),
        job("trim", files, "trim", model, "--lang", "sv,en", "--captions", f"sv={inputs / 'dictionary.jsonl'}"),
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
