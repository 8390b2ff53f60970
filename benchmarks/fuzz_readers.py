"""The readers that `fuzz.py` tries, one sample each; more of them in `fuzz_folders.py` and `fuzz_checkpoints.py`."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fuzz_checkpoints import checkpoint_readers
from benchmarks.fuzz_folders import folder_readers
from benchmarks.fuzz_reader import SPECIFICATION, Reader, drain


def _captions(write: Callable[[Path], object], name: str) -> Reader:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        write(folder / name)

    def read(folder: Path) -> None:
        from babelclip.data.sources import open_captions

        drain(open_captions(folder / name, lang="en"))

    return Reader(make, read, weight=2.0)


ROWS = [
    {"id": "1", "text": "a dog in the snow", "lang": "en", "image": "a.jpg"},
    {"id": "1-sv", "text": "en hund i snön", "lang": "sv", "source_id": "1", "image": "a.jpg"},
    {"id": "2", "text": 'two cats, "Tom" & 猫', "lang": "en", "label": "cat"},
]
TMX = """<?xml version="1.0" encoding="UTF-8"?>
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en"><seg>a dog</seg></tuv><tuv xml:lang="sv"><seg>en hund</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>a cat &amp; more</seg></tuv><tuv xml:lang="de"><seg>eine Katze</seg></tuv></tu>
</body></tmx>
"""


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def _separated(separator: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        lines = [separator.join(("id", "text", "lang", "image"))]
        lines += [separator.join((row["id"], row["text"].replace(",", ";"), row["lang"], "a.jpg")) for row in ROWS]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write


def _parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)


def _arrow(path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _tar(path: Path) -> None:
    from tests.data.layouts import jpeg, write_tar

    described = b'{"caption": "a dog", "key": "0"}'
    write_tar(path, [("0.jpg", jpeg()), ("0.txt", b"a dog"), ("0.json", described), ("1.jpg", jpeg())])


def _make_store(folder: Path) -> None:
    from babelclip.data.captions import Captions
    from babelclip.data.embed import embed_captions
    from tests.conftest import make_clip

    texts = ["a dog", "a cat", "två hundar", "red star"]
    captions = Captions.from_columns(id=list("abcd"), text=texts, lang="en")
    embed_captions(make_clip(), captions, folder, shard_rows=2).close()


def _read_store(folder: Path) -> None:
    from babelclip.store import EmbeddingStore

    store = EmbeddingStore.open(folder)
    store.verify()
    store.read()
    store.find(["a", "x"])
    drain(store.blocks())


def _make_model(folder: Path) -> None:
    from tests.conftest import make_clip

    make_clip().save(folder)


def _read_model(folder: Path) -> None:
    import babelclip

    babelclip.load(folder, dtype="float32", device="cpu").encode_text(["två hundar"])


STATE = {"layer.0.weight": np.ones((4, 3), np.float32), "layer.0.bias": np.zeros(4, np.float32)}


def _make_weights(form: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        import torch
        from safetensors.numpy import save_file

        folder.mkdir(parents=True)
        if form == "safetensors":
            save_file(STATE, folder / "model.safetensors")
        else:
            state = OrderedDict((name, torch.from_numpy(value)) for name, value in STATE.items())
            torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")

    return make


def _read_weights(folder: Path) -> None:
    from babelclip.models.checkpoints.files.tensors import open_tensors

    tensors = open_tensors(folder)
    for name in tensors:
        tensors[name].sum()


def _make_head(folder: Path) -> None:
    folder.mkdir(parents=True)
    with open(folder / "head.pkl", "wb") as file:
        pickle.dump([np.ones((4, 3), np.float32), np.zeros(3, np.float32)], file)


def _read_head(folder: Path) -> None:
    from babelclip.models.checkpoints.files.legacy_pickle import read_linear_head

    read_linear_head(folder / "head.pkl")


def _make_picture(form: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        from tests.conftest import draw_shape

        folder.mkdir(parents=True)
        draw_shape("red", "circle", 37).save(folder / "picture", form)

    return make


def _read_picture(folder: Path) -> None:
    from babelclip.models.preprocess import open_picture, to_rgb

    to_rgb(open_picture(folder / "picture", max_pixels=1 << 24)).load()


def _make_recipe(folder: Path) -> None:
    from babelclip.train.recipe import Recipe, to_toml

    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(to_toml(Recipe()), encoding="utf-8")


def _read_recipe(folder: Path) -> None:
    from babelclip.train.recipe import load_recipe

    load_recipe(folder / "recipe.toml")


def _text(sample: str, parse: Callable[[str], object]) -> Reader:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "text").write_text(sample, encoding="utf-8")

    def read(folder: Path) -> None:
        parse((folder / "text").read_text(encoding="utf-8", errors="replace"))

    return Reader(make, read, weight=4.0)


def _where(text: str) -> object:
    from babelclip.search.filters import parse_where

    columns = {"width": "int", "lang": "text", "score": "float", "good": "bool", "modified": "time"}
    return parse_where(text, columns)


def _query(text: str) -> object:
    from babelclip.search.query_terms import parse_query

    return parse_query(text)


def _language(text: str) -> object:
    from babelclip import languages

    return languages.normalize(text)


def _read_scored(folder: Path) -> None:
    from babelclip.train.pairs import read_scored

    read_scored(folder / "sts.csv")


def _make_scored(folder: Path) -> None:
    folder.mkdir(parents=True)
    line = "main-captions\tMSRvid\t2012test\t{n}\t{s}\tA dog runs.\tA dog is running.\n"
    (folder / "sts.csv").write_text("".join(line.format(n=n, s=n / 2) for n in range(8)), encoding="utf-8")


def _make_results(folder: Path) -> None:
    folder.mkdir(parents=True)
    row = {
        **{"task": "zeroshot_retrieval", "model": "m", "dataset": "d", "split": "test", "language": "sv"},
        **{"direction": "t2i", "k": [1, 5], "metrics": {"R@1": 0.5, "R@5": 0.7}, "intervals": {"R@1": [0.4, 0.6]}},
        "n_images": 10,
    }
    (folder / "results.json").write_text(json.dumps([row]), encoding="utf-8")


def _read_results(folder: Path) -> None:
    from babelclip.evaluate.report_read import read_file

    read_file(folder / "results.json")


def _make_retrieval_folder(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in ("img_emb", "metadata"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for part in range(2):
        np.save(folder / f"img_emb/img_emb_{part}.npy", random.standard_normal((4, 16)).astype(np.float16))
        rows = [{"image_path": f"{part}-{n}.jpg", "caption": f"caption {n}"} for n in range(4)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"metadata/metadata_{part}.parquet")


def _read_retrieval_folder(folder: Path) -> None:
    from babelclip.search.collection import open_collection

    collection = open_collection(folder, space="test/fuzz")
    collection.search(np.ones((1, 16), np.float32), 3, columns=["caption"])
    collection.close()


def _benchmark(name: str) -> Reader:
    def make(folder: Path) -> None:
        from tests.evaluate.benchmarks.layouts import made

        folder.mkdir(parents=True)
        (folder / SPECIFICATION).write_text(made(name, folder).replace(str(folder), "FOLDER"), encoding="utf-8")

    def read(folder: Path) -> None:
        from babelclip.evaluate.benchmarks import open_benchmark

        open_benchmark((folder / SPECIFICATION).read_text(encoding="utf-8").replace("FOLDER", str(folder)))

    return Reader(make, read, weight=0.3)


def _readers() -> dict[str, Reader]:
    from tests.evaluate.benchmarks.layouts import LAYOUTS

    found = {
        "captions jsonl": _captions(_jsonl, "c.jsonl"),
        "captions csv": _captions(_separated(","), "c.csv"),
        "captions tsv": _captions(_separated("\t"), "c.tsv"),
        "captions parquet": _captions(_parquet, "c.parquet"),
        "captions arrow": _captions(_arrow, "c.arrow"),
        "captions tmx": _captions(lambda path: path.write_text(TMX, encoding="utf-8"), "c.tmx"),
        "captions tar": _captions(_tar, "c.tar"),
        "store": Reader(_make_store, _read_store, suffixes=(".json", ".npy", ".parquet")),
        "model": Reader(_make_model, _read_model, weight=0.6),
        "weights safetensors": Reader(_make_weights("safetensors"), _read_weights),
        "weights zip": Reader(_make_weights("zip"), _read_weights),
        "weights old": Reader(_make_weights("old"), _read_weights),
        "head pickle": Reader(_make_head, _read_head, weight=2.0),
        "recipe": Reader(_make_recipe, _read_recipe),
        "where": _text("width >= 1000 and (lang in ('sv', 'de') or not score < 0.5) and modified is null", _where),
        "query": _text("beach - people + 'at night' -\"two dogs\"^0.5", _query),
        "language": _text("zh-Hant-TW", _language),
        "scored pairs": Reader(_make_scored, _read_scored),
        "results": Reader(_make_results, _read_results),
        "clip-retrieval folder": Reader(_make_retrieval_folder, _read_retrieval_folder, weight=0.6),
    }
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        found[f"picture {form.lower()}"] = Reader(_make_picture(form), _read_picture)
    found.update({f"benchmark {name}": _benchmark(name) for name in sorted(LAYOUTS)})
    return found | folder_readers() | checkpoint_readers()


READERS = _readers()
