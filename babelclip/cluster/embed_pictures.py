"""Pictures as an embed job: the plan, one block, the report.

A shard is a block of names, as `babelclip embed` cuts them (`data/embed_blocks.py`). Pictures that cannot be read are
found out by the worker, left out and counted; a block without a readable picture adds no shard to the store.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip import storage
from babelclip.cluster.embed_commit import write_fragment
from babelclip.cluster.embed_folder import JobFolder
from babelclip.cluster.embed_job import Do, Embedded, Plan
from babelclip.cluster.job import Fragment, Shard
from babelclip.data import embed_rows
from babelclip.data.embed_blocks import (
    BYTES,
    PictureBlocks,
    PictureSettings,
    encode_block,
    picture_columns,
    picture_size,
)
from babelclip.data.embed_images import (
    BLOCK,
    PicturesReport,
    image_tower,
    nothing_readable,
    picture_names,
)
from babelclip.data.embed_targets import check_float16, target_dim
from babelclip.data.parts import positive
from babelclip.data.sources import image_root
from babelclip.errors import shown
from babelclip.models.decoding import EncodeReport, decoder_pool
from babelclip.progress import progress_bar
from babelclip.store import EmbeddingStore
from babelclip.store.checks import row_table
from babelclip.store.id_file import IdFile
from babelclip.store.layout import StoreFacts
from babelclip.translate.folder import source_facts

_TYPES = {"string": pa.string(), "int64": pa.int64(), "null": pa.null()}
# Reasons that the report keeps, and of these, those that one fragment does.
_REASONS = 100


@dataclasses.dataclass(frozen=True)
class PicturesKind:
    """What `embed_pictures` is asked for; see there.

    Attributes:
        source: a folder of pictures, or captions that name them.
        model: folder or name of the model.
        root: folder that names begin in; None for where the captions lie.
        lang: language of captions that name none.
        only: keep captions in these languages.
        strict: whether the first picture that cannot be used is an error.
        settings: of the vectors.
        dtype: of the store.
        shard_rows: pictures of a block; None for what `embed` takes.
        device: kind of the devices, "cpu" or "cuda".
    """

    source: str
    model: str
    root: str | None = None
    lang: str | None = None
    only: tuple[str, ...] | None = None
    strict: bool = False
    settings: PictureSettings = dataclasses.field(default_factory=PictureSettings)
    dtype: str = "float16"
    shard_rows: int | None = None
    device: str = "cpu"
    what: str = "Picture vectors"
    unit: str = "pictures"

    def asked(self) -> dict[str, Any]:
        """Returns what decides the bytes."""
        told = dataclasses.asdict(self)
        # Looking at every picture of a folder, in every process, would take longer than it is worth.
        facts = None if Path(self.source).is_dir() else source_facts(self.source)["facts"]
        told |= {"source": facts or Path(self.source).name, "shard_rows": self._rows}
        return {name: value for name, value in told.items() if name not in ("what", "unit", "root")}

    def plan(self, out: str, folder: JobFolder, progress: bool) -> Plan:
        """Writes the names of all blocks."""
        import babelclip

        clip = babelclip.load(self.model, towers="image")
        tower, target = image_tower(clip), self.settings.target
        facts = StoreFacts(
            space=clip.space,
            model=clip.name or clip.space,
            dim=target_dim(tower, target),
            dtype=self.dtype,
            normalized=self.settings.normalize,
            kind="image",
            target=target,
        )
        counts, skipped, name = {"without": 0}, list[str](), self._name
        with (
            EmbeddingStore.open_or_create(out, **dataclasses.asdict(facts)) as store,
            progress_bar("Pictures planned", None, shown=progress, unit="pictures") as advance,
        ):
            embed_rows.check_columns(store, BYTES)
            there = len(store)
            schema = row_table(["x"], picture_columns([1], name), store.row_schema if there else None).schema
            spool = _Spool(folder, hashlib.sha256(repr((self.asked(), facts)).encode()).hexdigest())
            blocks = PictureBlocks(
                store, self._root, self._rows, spool.add, lambda item, _: skipped.append(item.reason), advance,
                spool.taken,
            )  # fmt: skip
            for names in picture_names(self.source, self.lang, self.only, self.strict, counts):
                blocks.take(names)
                advance(len(names))
            blocks.finish()
            base = (len(store.shards), there)
        told = {"without": counts["without"], "unusable": len(skipped), "reasons": skipped[:_REASONS], "source": name}
        return Plan(spool.shards, facts, base, [(field.name, str(field.type)) for field in schema], told)

    def do(self, device: str, lanes: int, decoders: Executor | None, job: dict[str, Any]) -> Do:
        """Loads the picture tower, and returns what does a block."""
        import babelclip

        tower = image_tower(babelclip.load(self.model, towers="image", device=device))
        devices, root = [tower] * lanes if device.startswith("cpu") else [tower], self._root

        def do(shard: Shard, table: pa.Table, room: Path) -> dict[str, Any]:
            names, took = table["id"].to_pylist(), list[EncodeReport]()
            sizes = [picture_size(root / name) for name in names]
            with nullcontext(decoders) if decoders is not None else decoder_pool(0, len(names)) as pool:
                vectors, skipped = encode_block(
                    tower,
                    [root / name for name in names],
                    self.settings,
                    devices=devices,
                    pool=pool,
                    strict=self.strict,
                    report=took.append,
                )
            bad = {item.position for item in skipped}
            kept = [place for place in range(len(names)) if place not in bad]
            ids = [names[place] for place in kept]
            lossy = check_float16(vectors, ids) if ids and job["facts"]["dtype"] == "float16" else 0
            if ids:
                rows = {"id": ids, **picture_columns([sizes[place] for place in kept], job["told"]["source"])}
                whole = pa.table({name: pa.array(rows[name], _TYPES[kind]) for name, kind in job["columns"]})
                write_fragment(room, ids, vectors, whole, job["facts"])
            return {
                "rows": len(ids),
                "lossy": lossy,
                "skipped": len(skipped),
                "reasons": [shown(item.reason) for item in skipped[:_REASONS]],
                "took": dataclasses.asdict(took[0]),
            }

        return do

    def report(self, job: dict[str, Any], fragments: Iterable[Fragment], rows: int, seconds: float) -> Embedded:
        """Returns what the job did.

        Raises:
            BabelclipError: no picture at all could be read.
        """
        told, there = job["told"], rows if job["complete"] else job["base"][1]
        encode, lossy, skipped, reasons = EncodeReport(0, 0, 0.0, 0.0, 0.0), 0, told["unusable"], list(told["reasons"])
        for one in fragments:
            encode += EncodeReport(**one.facts["took"])
            lossy, skipped = lossy + one.facts["lossy"], skipped + one.facts["skipped"]
            reasons += one.facts["reasons"][: _REASONS - len(reasons)]
        if not rows:
            raise nothing_readable(self.source, self._root, skipped, reasons[0] if reasons else "")
        encode = dataclasses.replace(encode, seconds=seconds)
        report = PicturesReport(there, rows - there, skipped, told["without"], lossy, encode)
        return Embedded(report, tuple(reasons))

    @property
    def _rows(self) -> int:
        return positive(self.shard_rows or BLOCK)

    @property
    def _root(self) -> Path:
        return storage.shadow(self.root) if self.root is not None else image_root(self.source)

    @property
    def _name(self) -> str:
        return Path(self.source).name or str(self.source)


class _Spool:
    """Writes names of pictures as contents of shards, and knows which it has."""

    def __init__(self, folder: JobFolder, salt: str) -> None:
        self._folder, self._salt = folder, salt
        self._ids = IdFile(Path(folder.path), lambda number: folder.read_shard(number, ["id"])["id"])
        self.shards: list[Shard] = []

    def add(self, names: list[str]) -> int:
        """Writes a block; returns 0, because the store gets no row yet."""
        number = len(self.shards)
        table = pa.table({"id": pa.array(names, pa.string())})
        self._folder.write_shard(number, table)
        digest = hashlib.sha256("\0".join([self._salt, *names]).encode()).hexdigest()
        self.shards.append(Shard(number, digest[:32], len(names)))
        self._ids.add([table["id"]])
        return 0

    def taken(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns which of `names` (N,) an earlier block has."""
        earlier: npt.NDArray[np.bool_] = self._ids.find(names) >= 0
        return earlier
