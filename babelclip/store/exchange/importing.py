"""Vectors in the layout of another tool, into a new `EmbeddingStore`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.progress import progress_bar
from babelclip.store import origin
from babelclip.store.checks import UNIT_LENGTH_TOLERANCE
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.exchange import clip_retrieval, dataset_rows, numpy_file
from babelclip.store.exchange.foreign import Foreign, Vectors
from babelclip.store.exchange.ids import IdRule, id_rule
from babelclip.store.layout import MANIFEST, StoreFacts
from babelclip.store.writer import ShardWriter

LAYOUTS = ("clip-retrieval", "dataset", "npy")


def import_store(
    source: Path | str,
    out: Path | str,
    *,
    layout: str = "",
    space: str = "",
    model: str = "",
    kind: str = "",
    target: str = "",
    dtype: str = "",
    normalized: bool | None = None,
    ids: str = "",
    progress: bool = False,
) -> EmbeddingStore:
    """Returns the store at `out` with the vectors of `source`, in their order.

    Run again after a kill, it goes on behind the last shard. What is not given is taken from `babelclip.json`, which
    our own exports have, or else from what stands in brackets.

    Args:
        source: a folder or a file.
        out: a new folder, or that of the same import that was stopped.
        layout: "clip-retrieval", "dataset" or "npy" (by the look of `source`).
        space: id of the embedding space. No layout knows it.
        model: name of the model (`space`).
        kind: "image" or "text" (what clip-retrieval's folder has, else "text").
        target: "projected", "pooled" or "penultimate" ("projected").
        dtype: "float16" or "float32" (that of the source).
        normalized: whether the vectors have length 1 (clip-retrieval's do, others not). In a float32 store they are
            then scaled to exactly that; float16 keeps its bytes.
        ids: a column, "position", or for "npy" a file of ids (a column `store_id`, else the position; where a data set
            has a column `id` as well, it must say the same).
        progress: show a bar on stderr.

    Raises:
        BabelclipError: no space is known; the source is misaligned, cut or damaged, or has vectors that are not finite
            or ids that occur twice; `out` holds other things.
    """
    source, out = Path(source), Path(out)
    layout = _layout(source, layout)
    opened = _open(source, layout, kind, ids)
    facts = _facts(source, opened, space, model, kind, target, dtype, normalized)
    rule = id_rule(opened, layout, ids)
    work = {
        "work": "import",
        "layout": layout,
        "ids": ids if layout != "npy" or ids == numpy_file.POSITION else "",
        "sources": [origin.fingerprint(file) for file in opened.files],
    }
    with EmbeddingStore.open_or_create(out, **dataclasses.asdict(facts)) as store:
        if not origin.begin(out, work, rows=len(store)):
            with progress_bar("Importing", opened.count, shown=progress, unit="rows") as advance:
                advance(len(store), 0)
                _copy(opened, rule, store, advance)
            origin.end(out, work)
    return EmbeddingStore.open(out)


def _copy(source: Foreign, rule: IdRule, store: EmbeddingStore, advance: Callable[[int], None]) -> None:
    writer = ShardWriter(store, "float32" if store.dtype == "float32" else source.dtype)
    row = len(store)
    for vectors, table in source.read(row):
        last = row + len(vectors) - 1
        rows = rule.rows(table, row, len(vectors), source.where(row))
        try:
            writer.add(_scaled(vectors) if store.normalized and store.dtype == "float32" else vectors, rows)
            if last + 1 == source.count:
                writer.flush()
        except BabelclipError as error:
            first = len(store)  # what waits was not appended either
            raise BabelclipError(
                f"rows {first:,} to {last:,}, {source.where(first)} to {source.where(last)}: {error}"
            ) from error
        row = last + 1
        advance(len(vectors))


def _scaled(vectors: Vectors) -> Vectors:
    """Returns rows whose length is 1 but for rounding as float32 of length 1; the others as they are, for `append`."""
    features = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    near = np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE
    scaled: Vectors = np.divide(features, lengths, out=features.copy(), where=near)
    return scaled


def _layout(source: Path, layout: str) -> str:
    if layout:
        if layout not in LAYOUTS:
            raise BabelclipError(f"layout {layout!r} is not known. {did_you_mean(layout, LAYOUTS)}")
        return layout
    if not source.exists():
        raise BabelclipError(f"{source} does not exist: check the path.")
    if (source / MANIFEST).is_file():
        raise BabelclipError(f"{source} is an embedding store already: use it as it is.")
    recognise = {
        "clip-retrieval": clip_retrieval.recognises,
        "npy": numpy_file.recognises,
        "dataset": dataset_rows.recognises,
    }
    for name, recognises in recognise.items():
        if recognises(source):
            return name
    raise BabelclipError(
        f"{source} is of no layout that is known here. Allowed are a folder with img_emb/ or text_emb/ and metadata/ "
        "(clip-retrieval), Parquet files with a column embedding (dataset), and a .npy file with its ids (npy): give "
        "such a one, or name its layout= (--from) for a message that says what it lacks."
    )


def _open(source: Path, layout: str, kind: str, ids: str) -> Foreign:
    if layout == "clip-retrieval":
        return clip_retrieval.open_clip_retrieval(source, kind)
    return numpy_file.open_numpy_file(source, ids) if layout == "npy" else dataset_rows.open_dataset_rows(source)


def _facts(
    path: Path,
    source: Foreign,
    space: str,
    model: str,
    kind: str,
    target: str,
    dtype: str,
    normalized: bool | None,
) -> StoreFacts:
    """Returns the facts of the store: what was asked for, else what the export said, else what the layout means."""
    said = source.facts
    if "count" in said and said["count"] != source.count:
        raise BabelclipError(
            f"{path} holds {source.count} vectors, but its babelclip.json counts {said['count']}: files lack or were "
            "added. Export again."
        )
    space = space or str(said.get("space", ""))
    if not space:
        raise BabelclipError(
            f"{path} does not say which space its vectors are of, and vectors of two spaces must not be mixed: name it "
            "with space= (--space), for example openai/ViT-L-14, as `babelclip models` lists it."
        )
    if normalized is None:
        normalized = bool(said.get("normalized", source.normalized or False))
    return StoreFacts(
        space=space,
        model=model or str(said.get("model", "") or space),
        dim=source.dim,
        dtype=dtype or str(said.get("dtype", source.dtype)),
        normalized=normalized,
        kind=kind or str(said.get("kind", "text")),
        target=target or str(said.get("target", "projected")),
    )
