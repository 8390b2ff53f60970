"""Vectors and their captions as a folder fit for a data set hub, and back.

    README.md                                what it is: YAML for the hub, Markdown for people (`data_card`)
    data/train-00000-of-00012.parquet        id, source_id, text, lang, embedding (fixed-size list of D numbers)
    translations/train-00000-of-00040.parquet    id, source_id, text, lang: their vector is that of `source_id`
    babelclip.json                           facts of the store, rows and SHA-256 of each file
    SHA256SUMS                               for `sha256sum --check`

The folder is made beside its place under a hidden name and takes its name when it is whole. Until then each finished
file has a note of its rows; a run that starts again reads the captions once more, and writes only what lacks.

Entry points: `publish_store`, `import_published`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip import __version__
from babelclip.data.captions import Captions
from babelclip.data.data_card import CardFacts, data_card
from babelclip.data.publish_files import Ints, ParquetFiles, vectors_in
from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError
from babelclip.files import LockedError, atomic_path, lock_file, read_json, sha256, sync, write_json
from babelclip.progress import progress_bar
from babelclip.store import EmbeddingStore
from babelclip.store.layout import LOCK

# Rows of a Parquet file: 100 MB of 768 float16.
SHARD_ROWS = 65536
MANIFEST = "babelclip.json"
_FORMAT, _VERSION = "babelclip-published", 1
_FACTS = ("space", "model", "dim", "dtype", "normalized", "kind", "target")
# Rows with a vector, and rows without.
KINDS = ("data", "translations")
_TEXTS = ("id", "source_id", "text", "lang")

# A source of captions, captions, or parts of them as `open_captions` gives them.
Given: TypeAlias = Captions | str | Path | Iterable[Captions]


@dataclasses.dataclass(frozen=True)
class Published:
    """What lies in a published folder.

    Attributes:
        folder: where.
        rows: rows with a vector.
        translations: rows without one, whose `source_id` names a row that has one.
        languages: number of rows by language, of both kinds.
        without_caption: vectors of the store that no caption has, which were left out.
        files: size in bytes by name relative to the folder.
    """

    folder: Path
    rows: int
    translations: int
    languages: dict[str, int]
    without_caption: int
    files: dict[str, int]


def publish_store(
    store: EmbeddingStore | Path | str,
    captions: Given | Iterable[Given] | None,
    folder: Path | str,
    *,
    licence: str,
    attribution: str | Sequence[str] = (),
    name: str = "",
    teacher_revision: str = "",
    about: str = "",
    rows: int = SHARD_ROWS,
    progress: bool = False,
) -> Published:
    """Writes the vectors of a store with their captions as Parquet files, a data card and checksums.

    A caption whose `id` has a vector becomes a row of `data/` with it. A caption whose `source_id` has one becomes a
    row of `translations/`, without, so that a vector is written once however many translations it has.

    Run again after an interruption, it goes on behind the last whole file, and the folder becomes the same as without.
    Memory holds a file's rows and one byte for each vector of the store, and where captions come in another order than
    the vectors, or as translations, the ids of the store.

    Args:
        store: the vectors, or their folder.
        captions: what the vectors are of, and translations of it: sources that `open_captions` reads (a file, the
            folder that `translate` wrote), captions in memory, parts of captions, or several of these. None: ids and
            vectors alone.
        folder: a new or empty folder; one that an equal call has finished is left as it is.
        licence: of the captions and vectors together, for example `cc-by-4.0`; there is no default on purpose.
        attribution: those that the licence asks to name, one line each.
        name: what the card calls the data set; the name of the folder if empty.
        teacher_revision: commit of the weights that made the vectors.
        about: a paragraph for the card, in Markdown: where the captions come from, how they were translated.
        rows: rows of a file.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: the licence is missing, the folder holds other things, another process publishes there, or
            captions have no vector.
    """
    folder = Path(folder)
    lines = [attribution] if isinstance(attribution, str) else list(attribution)
    _check_arguments(licence, rows)
    opened = store if isinstance(store, EmbeddingStore) else EmbeddingStore.open(store)
    plan = _plan(opened, name or folder.absolute().name, licence, lines, teacher_revision, about, rows)
    before = _published_before(folder, plan)
    if before is not None:
        content = _compared_or_written(opened, captions, folder, plan, before, progress)
        shutil.rmtree(_work(folder), ignore_errors=True)  # of a run that was killed after its last step but one
        return _summary(folder, content)
    release = _hold(_work(folder), folder)
    try:
        # Another process may have finished it meanwhile.
        before = _published_before(folder, plan)
        content = _compared_or_written(opened, captions, folder, plan, before, progress)
        shutil.rmtree(_work(folder), ignore_errors=True)
    finally:
        release()
    return _summary(folder, content)


def _compared_or_written(
    opened: EmbeddingStore,
    captions: Given | Iterable[Given] | None,
    folder: Path,
    plan: dict[str, Any],
    before: dict[str, Any] | None,
    progress: bool,
) -> dict[str, Any]:
    """Returns the manifest of a folder that is whole now; `before` is that of a finished one, None to write it."""
    work, rows = _work(folder), plan["rows_of_a_file"]
    if before is None:
        _begin(work, plan)
    writers = {
        kind: ParquetFiles(
            (folder if before else work / "folder") / kind,
            work / "notes" / kind,
            rows,
            opened if kind == "data" else None,
            [entry for name, entry in before["files"].items() if name.startswith(f"{kind}/")] if before else None,
        )
        for kind in KINDS
    }
    seen = np.zeros(len(opened), bool)
    parts = _rows_of_store(opened) if captions is None else _rows_of_captions(_parts(captions), opened, seen)
    with progress_bar("Publishing", len(opened), shown=progress, unit="rows") as advance:
        for kind, table, places in parts:
            written = writers[kind].add(table, places)
            if kind == "data":
                advance(table.num_rows, written)
    files = {f"{kind}/{file}": entry for kind, writer in writers.items() for file, entry in writer.finish().items()}
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "babelclip": __version__,
        "plan": plan,
        "without_caption": 0 if captions is None else int((~seen).sum()),
        "files": files,
    }
    if before is None:
        _finish(work, folder, content)
    return content


def import_published(folder: Path | str, path: Path | str, *, progress: bool = False) -> EmbeddingStore:
    """Returns the store at `path` with the ids and the vectors, bit for bit, of a folder that `publish_store` wrote.

    Run again after an interruption, it goes on behind the last whole shard.

    Raises:
        BabelclipError: the folder is of another kind or damaged, or the store at `path` holds other vectors.
    """
    folder = Path(folder)
    content = _manifest(folder)
    files = {name: entry for name, entry in content["files"].items() if name.startswith("data/")}
    total = sum(entry["rows"] for entry in files.values())
    with (
        EmbeddingStore.open_or_create(path, **content["plan"]["facts"]) as store,
        progress_bar("Importing", total, shown=progress, unit="rows") as advance,
    ):
        there, start = len(store), 0
        for name, entry in files.items():
            end = start + entry["rows"]
            _check_file(folder / name, entry)
            file = pq.ParquetFile(folder / name)
            ids = file.read(columns=["id"])["id"].to_pylist()
            if end <= there and store.ids_between(start, end) == ids:
                advance(entry["rows"], 0)
            elif start == len(store):
                store.append(ids, vectors_in(file, store.dim, store.dtype))
                advance(entry["rows"])
            else:
                raise BabelclipError(
                    f"{path} holds {there} vectors that are not the first ones of {folder}. A folder is imported into "
                    "a new store, or into one that an import of the same folder began: choose another path."
                )
            start = end
    return EmbeddingStore.open(path)


# -- rows and where they go ------------------------------------------------------------------------------------------


def _parts(captions: Given | Iterable[Given]) -> Iterator[Captions]:
    given = [captions] if isinstance(captions, (Captions, str, Path)) else captions
    for source in given:
        if not isinstance(source, Captions):
            yield from open_captions(source) if isinstance(source, (str, Path)) else source
            continue
        for start in range(0, len(source), SHARD_ROWS):
            yield Captions(source.table.slice(start, SHARD_ROWS))


def _rows_of_store(store: EmbeddingStore) -> Iterator[tuple[str, pa.Table, Ints]]:
    """Yields the ids of a store as rows with a vector."""
    for start in range(0, len(store), SHARD_ROWS):
        end = min(start + SHARD_ROWS, len(store))
        ids = pa.array(store.ids_between(start, end), pa.string())
        yield "data", pa.table({"id": ids}), np.arange(start, end)


def _rows_of_captions(
    parts: Iterable[Captions], store: EmbeddingStore, seen: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, pa.Table, Ints]]:
    """Yields ("data" or "translations", rows, their vectors' places), and marks in `seen` (N,) what has a caption."""
    passed = 0
    for part in parts:
        table = part.table.select(_TEXTS)
        ids = part.ids
        # Captions mostly come in the order in which they were embedded, and then no index of ids is needed.
        if passed + len(ids) <= len(store) and store.ids_between(passed, passed + len(ids)) == ids:
            own = np.arange(passed, passed + len(ids))
            passed += len(ids)
        else:
            own = store.find(ids)
        shared = np.full(len(ids), -1, np.int64)
        sources = table["source_id"].to_pylist()
        asking = [row for row in np.flatnonzero(own < 0).tolist() if sources[row] is not None]
        if asking:  # the index of ids is made at the first question
            shared[asking] = store.find([sources[row] for row in asking])
        lacking = np.flatnonzero((own < 0) & (shared < 0))
        if len(lacking):
            raise BabelclipError(
                f"{len(lacking)} of {len(ids)} captions have no vector in {store.path}, neither by their id nor by "
                f"their source_id, first {[ids[row] for row in lacking[:3].tolist()]}. Every caption of a data set has "
                "one: embed these too, or leave them out of what is published."
            )
        with_vector = np.flatnonzero(own >= 0)
        places = own[with_vector]
        twice = Counter(places.tolist())
        again = [row for row in with_vector.tolist() if seen[own[row]] or twice[own[row]] > 1]
        if again:
            raise BabelclipError(
                f"{len(again)} captions have the id of another, first {ids[again[0]]!r}. An id names one row of a data "
                "set: give each caption its own, and each source once."
            )
        seen[places] = True
        yield "data", table.take(pa.array(with_vector)), places
        yield "translations", table.filter(pa.array(own < 0)), np.empty(0, np.int64)


def _check_arguments(licence: str, rows: int) -> None:
    if not licence.strip():
        raise BabelclipError(
            "A data set was to be published without a licence. Nobody may use what has none: give the licence of the "
            "captions that it holds, for example cc-by-4.0; where the source states none, ask its authors."
        )
    if rows < 1:
        raise BabelclipError(f"rows={rows} of a file is not allowed: give 1 or more, {SHARD_ROWS} for example.")


def _plan(
    store: EmbeddingStore, name: str, licence: str, attribution: Sequence[str], revision: str, about: str, rows: int
) -> dict[str, Any]:
    """Returns what a finished or begun folder must agree with, captions aside."""
    return {
        "facts": {fact: getattr(store, fact) for fact in _FACTS},
        "store_sha256": sha256(store.path / "manifest.json"),
        "name": name,
        "licence": licence.strip(),
        "attribution": [line.strip() for line in attribution if line.strip()],
        "teacher_revision": revision,
        "about": about,
        "rows_of_a_file": rows,
    }


def _published_before(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the manifest of a folder that the same plan has finished; None where nothing is there.

    Raises:
        BabelclipError: other things are there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    content = _manifest(folder) if (folder / MANIFEST).is_file() else None
    if content is not None and content["plan"] == plan:
        return content
    what = "a data set published from another store or with other words" if content else "other things"
    raise BabelclipError(f"{folder} holds {what}. A data set needs a new or empty folder: choose another path.")


def _work(folder: Path) -> Path:
    """Returns where a data set lies until it is whole: beside its folder."""
    return folder.absolute().parent / f".{folder.absolute().name}.publishing"


def _hold(work: Path, folder: Path) -> Callable[[], None]:
    """Makes the working folder and takes its lock, which ends with the process; returns what gives it back.

    Raises:
        BabelclipError: another process publishes there.
    """
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            release = lock_file(work / LOCK)
        except LockedError as error:
            raise BabelclipError(
                f"{folder} is being published by process {error.holder}. One process writes a data set: wait for it, "
                "stop it, or choose another folder."
            ) from error
        if (work / LOCK).is_file():
            return release
        release()  # the one that held it has finished and removed its folder


def _begin(work: Path, plan: dict[str, Any]) -> None:
    """Empties the working folder, unless an earlier run with the same plan left something there, and notes the plan."""
    if not (work / "plan.json").is_file() or read_json(work / "plan.json") != plan:
        for name in ("notes", "folder"):
            shutil.rmtree(work / name, ignore_errors=True)
    for kind in KINDS:
        (work / "notes" / kind).mkdir(parents=True, exist_ok=True)
        (work / "folder" / kind).mkdir(parents=True, exist_ok=True)
    for part in work.rglob(".*.part"):
        part.unlink()  # of a run that was killed while it wrote
    write_json(work / "plan.json", plan)


def _finish(work: Path, folder: Path, content: dict[str, Any]) -> None:
    """Writes card, manifest and checksums, and gives the folder its name."""
    made = work / "folder"
    for kind in KINDS:
        if not any(name.startswith(f"{kind}/") for name in content["files"]):
            shutil.rmtree(made / kind)
    write_json(made / MANIFEST, content)
    with atomic_path(made / "README.md") as temporary:
        temporary.write_text(data_card(_card_facts(content)), encoding="utf-8")
    sums = {name: entry["sha256"] for name, entry in content["files"].items()}
    sums |= {name: sha256(made / name) for name in (MANIFEST, "README.md")}
    with atomic_path(made / "SHA256SUMS") as temporary:
        temporary.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")
    os.replace(made, folder)
    sync(folder.absolute().parent)


def _card_facts(content: dict[str, Any]) -> CardFacts:
    plan = content["plan"]
    facts = plan["facts"]
    result = _summary(Path(), content)
    return CardFacts(
        name=plan["name"],
        licence=plan["licence"],
        attribution=plan["attribution"],
        about=plan["about"],
        teacher=facts["model"],
        teacher_revision=plan["teacher_revision"],
        **{fact: facts[fact] for fact in _FACTS if fact != "model"},
        rows=result.rows,
        translations=result.translations,
        languages=result.languages,
        version=content["babelclip"],
    )


def _summary(folder: Path, content: dict[str, Any]) -> Published:
    files = content["files"]
    languages = sum((Counter(entry["languages"]) for entry in files.values()), Counter[str]())
    rows = {kind: sum(entry["rows"] for name, entry in files.items() if name.startswith(f"{kind}/")) for kind in KINDS}
    return Published(
        folder,
        rows["data"],
        rows["translations"],
        dict(sorted(languages.items())),
        content["without_caption"],
        {name: entry["bytes"] for name, entry in files.items()},
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a published folder.

    Raises:
        BabelclipError: it lacks or is of another kind.
    """
    if not (folder / MANIFEST).is_file():
        raise BabelclipError(
            f"{folder} is not a data set that babelclip published: it has no {MANIFEST}. Give the folder of "
            "publish_store, or where one was downloaded to as a whole."
        )
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        raise BabelclipError(
            f"{folder / MANIFEST} is of another kind or version; expected {_FORMAT} {_VERSION}. Install the babelclip "
            "that wrote it, or a newer one."
        )
    return content


def _check_file(file: Path, entry: dict[str, Any]) -> None:
    if not file.is_file() or file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
        there = "is missing" if not file.is_file() else "has another content"
        raise BabelclipError(
            f"{file} {there}: its SHA-256 must be that of {MANIFEST}. Download it again; files of Git LFS need "
            "`git lfs pull`."
        )
