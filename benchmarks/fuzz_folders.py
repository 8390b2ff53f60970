"""More readers for `fuzz.py`: captions of several files, vectors of other tools, collections, side tables, keys."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_reader import Reader, drain

_LINES = ("a dog", "two cats", "", "a red circle & more", "fünf Äpfel")


def _opened(make: Callable[[Path], object], source: Callable[[Path], str | Path], **settings: Any) -> Reader:
    """Captions in a folder that `make` fills."""

    def read(folder: Path) -> None:
        from babelclip.data.sources import open_captions

        drain(open_captions(source(folder), lang="en"))

    return Reader(make, read, **settings)


def _folder(folder: Path) -> Path:
    return folder


def _lines(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        content = "".join(f"{line}\n" for line in _LINES).encode()
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)

    return make


def _moses(folder: Path) -> None:
    folder.mkdir(parents=True)
    for lang in ("en", "sv"):
        (folder / f"c.{lang}").write_text("".join(f"{lang} {line}\n" for line in _LINES), encoding="utf-8")


def _gzipped_jsonl(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [{"id": str(n), "text": line, "lang": "en"} for n, line in enumerate(_LINES)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))


def _translation(folder: Path) -> None:
    from babelclip.data.captions import Captions, write_captions
    from babelclip.translate.pipeline import translate_captions
    from tests.translate.fake import FAKE

    captions = Captions.from_columns(id=["1", "2"], text=["a dog", "two cats"], lang="en")
    source = folder.parent / "source.parquet"
    source.parent.mkdir(parents=True, exist_ok=True)
    write_captions(captions, source)
    translate_captions(source, folder, to=["sv", "de"], engine=FAKE, plan="all")


def _read_translation(folder: Path) -> None:
    from babelclip.data.sources import open_captions
    from babelclip.translate.folder import read_manifest, read_shard, read_timings

    drain(open_captions(folder))
    read_manifest(folder)
    read_timings(folder)
    for lang in ("sv", "de"):
        read_shard(folder, lang, 0)


def _img2dataset(into: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        from tests.data.layouts import img2dataset

        folder.parent.mkdir(parents=True, exist_ok=True)
        img2dataset(folder, into=into)

    return make


def _picture_texts(folder: Path) -> None:
    from tests.data.layouts import jpeg

    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg())
        (folder / f"{number}.txt").write_text(f"a dog {number}", encoding="utf-8")


def _parts(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for number in range(2):
        rows = [{"id": f"{number}-{n}", "text": line, "lang": "en"} for n, line in enumerate(_LINES)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{number:05d}.parquet")


def _vectors(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    return np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)


def _npy(folder: Path) -> None:
    vectors = _vectors(folder)
    np.save(folder / "x.npy", vectors)
    (folder / "x.txt").write_text("".join(f"id {n}\n" for n in range(6)), encoding="utf-8")


def _dataset_rows(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = _vectors(folder)
    rows = [{"id": n, "embedding": [vector.tolist()]} for n, vector in enumerate(vectors)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def _exported(layout: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        from babelclip.store.exchange import export_store
        from tests.store.stores import write_store

        write_store(folder.parent / "store", [f"id {n}" for n in range(7)])
        export_store(folder.parent / "store", folder, layout=layout)

    return make


def _foreign(layout: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        from babelclip.store.exchange import clip_retrieval, dataset_rows, numpy_file

        if layout == "npy":
            opened = numpy_file.open_numpy_file(folder / "x.npy", str(folder / "x.txt"))
        elif layout == "dataset":
            opened = dataset_rows.open_dataset_rows(folder)
        else:
            opened = clip_retrieval.open_clip_retrieval(folder, "")
        for vectors, _table in opened.read(0):
            np.asarray(vectors, np.float32).sum()

    return read


def _collection(folder: Path) -> None:
    from tests.search.collections import make_collection, make_rows

    folder.mkdir(parents=True)
    make_collection("lance", folder, make_rows(0, 12)).close()


def _read_collection(folder: Path) -> None:
    from babelclip.search.collection import open_collection
    from tests.search.collections import DIM

    collection = open_collection(folder / "my pictures.lance")
    collection.search(np.ones((1, DIM), np.float32), 3, columns=["caption"])
    collection.get(["r1", "r2"])
    collection.stats()
    collection.close()


def _side(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [{"image": f"{n}.jpg", "caption": line, "width": n, "licence": "CC0"} for n, line in enumerate(_LINES)]
    (folder / "side.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _read_side(folder: Path) -> None:
    from babelclip.search.index_columns import read_side

    read_side(folder / "side.jsonl", {"licence": "text", "width": "int"}, "en")


def _keys(folder: Path) -> None:
    from babelclip.search.server.tokens import make_key

    folder.mkdir(parents=True)
    for name in ("anna", "björn"):
        make_key(folder / "keys", name, ("read", "write"))


def _read_keys(folder: Path) -> None:
    from babelclip.search.server.tokens import KeyFile

    KeyFile(folder / "keys").find("bc_wrong")


def _nli(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"gold_label": label, "sentence1": "A dog runs.", "sentence2": f"An animal {n}."}
        for n, label in enumerate(("entailment", "contradiction", "neutral"))
    ]
    (folder / "nli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _read_nli(folder: Path) -> None:
    from babelclip.train.pairs import read_nli

    read_nli(folder / "nli.jsonl")


def _run(folder: Path) -> None:
    import torch

    from babelclip.train import checkpoint

    weights = {"head.0.weight": torch.ones(3, 2)}
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint.save(
        folder, 5, weights=weights, optimizer={"state": {}, "lr": 0.1}, state={"step": 5}, best=True, average=weights
    )


def _read_run(folder: Path) -> None:
    from babelclip.train import checkpoint

    checkpoint.best_step(folder)
    checkpoint.load(folder, 5)
    checkpoint.load_average(folder, 5)


def folder_readers() -> dict[str, Reader]:
    """Returns the readers of this module by name."""
    found = {
        "captions lines": _opened(_lines("c.sv"), lambda folder: folder / "c.sv"),
        "captions lines gz": _opened(_lines("c.sv.gz"), lambda folder: folder / "c.sv.gz"),
        "captions jsonl gz": _opened(_gzipped_jsonl, lambda folder: folder / "c.jsonl.gz"),
        "captions moses": _opened(_moses, lambda folder: f"moses:{folder / 'c.en'},{folder / 'c.sv'}"),
        "captions translation": Reader(_translation, _read_translation, leaves_out=(".lock",)),
        "captions parts": _opened(_parts, _folder),
        "captions pictures": _opened(_picture_texts, _folder),
        "captions clip-retrieval": _opened(_foreign_captions, _folder),
        "vectors npy": Reader(_npy, _foreign("npy")),
        "vectors dataset": Reader(_dataset_rows, _foreign("dataset")),
        "vectors clip-retrieval": Reader(_exported("clip-retrieval"), _foreign("clip-retrieval")),
        "collection": Reader(_collection, _read_collection, weight=0.25),
        "side table": Reader(_side, _read_side),
        "nli": Reader(_nli, _read_nli),
        "keys": Reader(_keys, _read_keys),
        "training checkpoint": Reader(_run, _read_run),
    }
    for into in ("webdataset", "files"):
        found[f"captions img2dataset {into}"] = _opened(_img2dataset(into), _folder)
    return found


def _foreign_captions(folder: Path) -> None:
    from tests.data.layouts import clip_retrieval

    clip_retrieval(folder)
