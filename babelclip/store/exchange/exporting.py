"""The vectors of an `EmbeddingStore`, in the layout of another tool."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import read_object, sha256, write_json
from babelclip.progress import progress_bar
from babelclip.store import layout as store_layout
from babelclip.store import origin
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.exchange import clip_retrieval, dataset_rows, numpy_file
from babelclip.store.exchange.foreign import FORMAT, SIDECAR
from babelclip.store.exchange.importing import LAYOUTS

_FILE_ROWS = {"clip-retrieval": clip_retrieval.FILE_ROWS, "dataset": dataset_rows.FILE_ROWS}


def export_store(
    path: Path | str, out: Path | str, *, layout: str, rows_per_file: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Writes the store at `path` to the folder `out` and returns the content of `babelclip.json` there.

    Run again after a kill, it goes on behind the last whole file. Memory holds a block of rows.

    Args:
        path: folder of the store.
        out: a new folder, or that of the same export that was stopped.
        layout: "clip-retrieval" (float16, length 1), "dataset" (float32 lists of shape [1, D]) or "npy" (as stored).
        rows_per_file: 0 takes what is usual, 1,000,000 and 100,000; "npy" is one file.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: the store is empty or damaged, the layout is not known, or `out` holds other things.
    """
    if layout not in LAYOUTS:
        raise BabelclipError(f"layout {layout!r} is not known. {did_you_mean(layout, LAYOUTS)}")
    store, out = EmbeddingStore.open(path), Path(out)
    if not len(store) or rows_per_file < 0:
        raise BabelclipError(
            f"export got {len(store)} vectors of {path} and {rows_per_file} rows a file, but a file holds at least "
            "one: embed first, and leave out --rows-per-file for what is usual."
        )
    size = len(store) if layout == "npy" else rows_per_file or _FILE_ROWS[layout]
    wanted = _content(store, layout, size)
    out.mkdir(parents=True, exist_ok=True)
    release = store_layout.lock_folder(out)
    try:
        content = _begun(out, wanted)
        ids = dataset_rows.whole_number_ids(store) if layout == "dataset" else (False, False)
        parts = [range(start, min(start + size, len(store))) for start in range(0, len(store), size)]
        with progress_bar("Exporting", len(store), shown=progress, unit="rows") as advance:
            for number, rows in enumerate(parts):
                if number < len(content["files"]):
                    advance(len(rows), 0)
                    continue
                if layout == "clip-retrieval":
                    files = clip_retrieval.write_clip_retrieval(store, out, number, len(parts), rows)
                elif layout == "dataset":
                    files = dataset_rows.write_dataset_rows(store, out, number, len(parts), rows, ids)
                else:
                    files = numpy_file.write_numpy_file(store, out, rows)
                content["files"].append({file.relative_to(out).as_posix(): sha256(file) for file in files})
                write_json(out / SIDECAR, content)
                advance(len(rows))
        if not content["complete"]:
            content["complete"] = True
            write_json(out / SIDECAR, content)
        with contextlib.suppress(OSError):  # Windows does not remove what is open
            (out / store_layout.LOCK).unlink()
    finally:
        release()
    return content


def _content(store: EmbeddingStore, layout: str, size: int) -> dict[str, Any]:
    """Returns what `babelclip.json` says before a file is written."""
    facts = dataclasses.asdict(store.facts)
    content = {"format": FORMAT, "version": 1, "layout": layout, **facts}
    if layout == "clip-retrieval":
        content |= {
            "dtype": "float16",
            "normalized": True,
            "was": {name: facts[name] for name in ("dtype", "normalized")},
            "renamed": clip_retrieval.renamed_columns(store),
        }
    source = origin.store_fingerprint(store.path)
    return {**content, "count": len(store), "rows_per_file": size, "source": source, "files": [], "complete": False}


def _begun(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of `babelclip.json` in `out`, written where it lacks; left-overs of a kill are removed.

    Raises:
        BabelclipError: the folder holds another export, or something else.
    """
    if not (out / SIDECAR).exists():
        others = sorted(
            item.name
            for item in out.iterdir()
            if item.name != store_layout.LOCK and not item.name.startswith(f".{SIDECAR}.")
        )
        if others:
            raise BabelclipError(
                f"{out} holds other things, first {others[:3]}. An export needs an empty or a new folder: choose "
                "another one."
            )
        write_json(out / SIDECAR, wanted)
    content: dict[str, Any] = read_object(out / SIDECAR)
    differing = sorted(
        name for name in wanted if name not in ("files", "complete") and content.get(name) != wanted[name]
    )
    if differing:
        raise BabelclipError(
            f"{out} holds another export: {', '.join(differing)} differ. It goes on only with the store and the "
            "options that it was begun with: repeat that command, or choose another folder."
        )
    for temporary in out.rglob(".*.part"):
        temporary.unlink()
    return content
