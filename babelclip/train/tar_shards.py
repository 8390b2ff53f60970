"""Webdataset tars as the data of a run that reads them shard by shard: what is in each, found out once.

Each tar's headers and texts are read once, by one process of the run, and kept in a small file beside the run: its
captions, checked as every reader checks them, and where in the tar each picture lies. Memory holds one number a tar and
the captions of those that are being read. Tars may lie at addresses such as s3://bucket/shards: each is fetched whole
when it is due. Entry point: `TarShards.open`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from babelclip.data.captions import SCHEMA, Captions
from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path
from babelclip.models.tar_pictures import member_place
from babelclip.progress import progress_bar
from babelclip.storage import present, shadow
from babelclip.train.processes import Processes

_LOG = logging.getLogger(__name__)
UNUSABLE_SHARD = "no caption of a tar can be used"
NO_PLACE = "picture is not in its tar"
_COLUMNS = ("text", "lang", "label", "start", "size")
# A change of what is kept makes old files useless.
_FORM = 1


class Shard(NamedTuple):
    """One tar: where it lies, and a name that is the same on all machines."""

    path: Path
    name: str


class Reading(NamedTuple):
    """How captions are read: the language of those that name none, and whether one that cannot be used is an error."""

    lang: str
    strict: bool


class Found(NamedTuple):
    """What is in one tar: usable captions, those left out by reason, captions by language."""

    rows: int
    skipped: dict[str, int]
    languages: dict[str, int]


class TarShards:
    """The tars of a run.

    Attributes:
        shards: in order of the sources, and of names within each.
        sizes: captions of each (S,).
        skipped: captions that were left out, by reason.
        languages: captions by language.
        fingerprint: the same where names and sizes are.
    """

    def __init__(
        self, shards: Sequence[Shard], found: Sequence[Found], folder: Path, *, reading: Reading, kept: int
    ) -> None:
        """Takes what `open` has found; captions of `kept` tars stay in memory."""
        self.shards, self._folder, self._reading, self._kept = list(shards), folder, reading, kept
        self.sizes = np.asarray([each.rows for each in found], np.int64)
        self.skipped = dict(sum((Counter(each.skipped) for each in found), Counter[str]()))
        self.languages = dict(sorted(sum((Counter(each.languages) for each in found), Counter[str]()).items()))
        names = "\n".join(f"{shard.name} {each.rows}" for shard, each in zip(shards, found, strict=True))
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()[:16]
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def open(
        cls,
        sources: Sequence[str],
        folder: Path,
        processes: Processes,
        *,
        lang: str = "",
        strict: bool = False,
        kept: int = 64,
        progress: bool = True,
    ) -> TarShards:
        """Returns the tars in some folders, or named one by one; every process looks into its part of them.

        Args:
            sources: folders with tars, tars, or addresses of either.
            folder: where what is found is kept.
            processes: all of them call this.
            lang: language of captions that name none; empty: they are left out.
            strict: whether a caption or a tar that cannot be used is an error instead of left out.
            kept: how many tars' captions stay in memory.
            progress: show a bar on stderr.

        Raises:
            BabelclipError: a source is missing or holds no tar, one is compressed, or nothing can be used.
        """
        shards, reading = _tars(sources), Reading(lang, strict)
        own = range(processes.rank, len(shards), processes.world)

        def look() -> dict[int, Found]:
            with progress_bar("Tars", len(own), shown=progress and processes.writes, unit="tars") as advance:
                found = {}
                for number in own:
                    found[number] = _found(_table(shards[number], folder, reading))
                    advance(1)
            return found

        # Machines may take long, and not the same time.
        looked = processes.collected(processes.on(range(processes.world), look))
        found = {number: each for part in looked if part for number, each in part.items()}
        opened = cls(shards, [found[number] for number in range(len(shards))], folder, reading=reading, kept=kept)
        if not opened.sizes.any():
            raise BabelclipError(
                f"None of the {len(shards)} tars holds a caption with a picture ({opened.skipped}), first "
                f"{shards[0].path}. A tar holds 0001.jpg, 0001.txt (or .json with a caption) and so on; where captions "
                "name no language, data.lang does."
            )
        return opened

    def table(self, number: int) -> pa.Table:
        """Returns the captions of a tar: text, lang, label, and where its picture begins and how many bytes it has."""
        if number in self._tables:
            self._tables.move_to_end(number)
        else:
            self._tables[number] = _table(self.shards[number], self._folder, self._reading)
            while len(self._tables) > self._kept:
                self._tables.popitem(last=False)
        return self._tables[number]


def _tars(sources: Sequence[str]) -> list[Shard]:
    shards: list[Shard] = []
    for source in sources:
        path = shadow(source)
        if path.is_dir():
            found = sorted(item for item in path.iterdir() if item.suffix == ".tar" and not item.name.startswith("."))
        else:
            found = [path] if path.is_file() else []
        if not found or found[0].suffix != ".tar":
            what = "does not exist" if not path.exists() else "holds no .tar" if path.is_dir() else "is no .tar"
            raise BabelclipError(
                f"data.stream = true reads pictures and captions from plain tars, and {source} {what}. Give a folder "
                "of tars or one tar (unpack .tar.gz to .tar), or set stream = false in [data]."
            )
        shards += [Shard(tar, f"{Path(source).name}/{tar.name}") for tar in found]
    return shards


def _table(shard: Shard, folder: Path, reading: Reading) -> pa.Table:
    """Returns what is known of a tar, looking into it where nothing is kept of it as it is now."""
    facts = shard.path.stat()
    key = f"{_FORM} {reading.lang} {reading.strict} {shard.name} {facts.st_size} {facts.st_mtime_ns}"
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.arrow"
    if not file.exists():
        made = _looked_into(shard, reading)
        with atomic_path(file) as temporary, pa.ipc.new_file(str(temporary), made.schema) as opened:
            opened.write_table(made)
    with pa.OSFile(str(file)) as opened:
        return pa.ipc.open_file(opened).read_all()


def _looked_into(shard: Shard, reading: Reading) -> pa.Table:
    # Before the rest: storage that fails is no damaged tar.
    path = present(shard.path)
    skipped: Counter[str] = Counter()
    tables = [SCHEMA.empty_table()]
    try:
        for part in open_captions(path, lang=reading.lang or None, strict=reading.strict):
            tables.append(part.table)
            skipped.update(part.skipped)
    except BabelclipError as error:
        if reading.strict:
            raise
        _LOG.warning("Tar %s is left out: %s", shard.name, error)
        skipped[UNUSABLE_SHARD] += 1
    captions = pa.concat_tables(tables)
    places = [_place(path, name) for name in captions["image"].to_pylist()]
    there = np.asarray([size > 0 for _, size in places], dtype=bool)
    if not there.all():
        skipped[NO_PLACE] += int((~there).sum())
    starts, sizes = (np.asarray([place[side] for place in places], np.int64) for side in (0, 1))
    table = pa.table(
        [captions["text"], captions["lang"], captions["label"], pa.array(starts), pa.array(sizes)], names=_COLUMNS
    ).filter(pa.array(there))
    kept = Captions(captions.filter(pa.array(there)))
    about = {"skipped": dict(skipped), "languages": kept.language_counts()}
    return table.replace_schema_metadata({"found": json.dumps(about)})


def _place(tar: Path, image: str | None) -> tuple[int, int]:
    try:
        return member_place(tar, (image or "").partition(".tar::")[2])
    except OSError:
        return 0, 0


def _found(table: pa.Table) -> Found:
    about: dict[str, Any] = json.loads(table.schema.metadata[b"found"])
    return Found(table.num_rows, about["skipped"], about["languages"])
