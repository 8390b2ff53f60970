"""Captions to vectors on disk: what a student is taught towards is computed once, and never again.

Captions go through in parts, so that memory holds a part and not the file: the next part is read while the model works,
and each shard is written as soon as it is full. A text is encoded once over the whole run, however many captions share
it: the vectors of the others are read back from the store. Where a run was stopped, the next one passes over what the
store has, comparing ids and texts in the store's own order, and goes on behind it.

Entry points: `embed_file`, `embed_captions`. One shard: `embed_shard`; which vector: `embed_targets`; what else is
kept: `embed_rows`; pictures: `embed_images`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from babelclip.data.captions import Captions
from babelclip.data.embed_rows import KnownTexts, Row, Sieve, refuse_twice, row_columns
from babelclip.data.embed_shard import TextSettings, encode_new, first_rows, is_new, reads_language, with_repeats
from babelclip.data.embed_targets import check_float16, target_dim
from babelclip.data.parts import ROWS, positive
from babelclip.data.readers.parts_folder import is_translation
from babelclip.data.sources import count_captions, open_captions
from babelclip.errors import BabelclipError
from babelclip.files import read_object
from babelclip.models.clip import Clip
from babelclip.models.encoding import Device, replicas
from babelclip.models.text import TextEncoder
from babelclip.progress import Advance, progress_bar
from babelclip.storage import shadowed
from babelclip.store import EmbeddingStore

_log = logging.getLogger(__name__)

LEFT_TO_SOURCE = "left to its source's vector"

# Texts between two writes: what an interruption can lose, a minute or two on a processor. 100 million rows are then
# 6,104 shards.
SHARD_ROWS = 16384


@dataclasses.dataclass(frozen=True)
class EmbedReport:
    """What one run did.

    Attributes:
        there: rows that the store had before.
        added: rows that it got.
        encoded: texts, or pictures, that the model was given; rows with equal texts share one.
        skipped: captions that were left out, by reason.
        languages: number of added rows by language.
        lossy: added rows that lose more than rounding in float16, because their values are tiny.
        seconds: wall time.
    """

    there: int
    added: int
    encoded: int
    skipped: dict[str, int]
    languages: dict[str, int]
    lossy: int
    seconds: float


def embed_file(
    clip: Clip,
    source: Path | str,
    path: Path | str,
    *,
    lang: str | None = None,
    only: str | Iterable[str] | None = None,
    strict: bool = False,
    sources_only: bool = False,
    target: str = "projected",
    normalize: bool = False,
    dtype: str = "float16",
    token_budget: int | None = None,
    devices: Sequence[Device] | None = None,
    shard_rows: int | None = None,
    progress: bool = False,
    report: Callable[[EmbedReport], None] | None = None,
) -> EmbeddingStore:
    """Returns the store at `path` with the vector of every caption of a source of any size (see `embed_captions`).

    Args:
        clip: the teacher; its text tower is used.
        source: whatever `open_captions` reads. Of a folder that `babelclip translate` wrote, its `sources`.
        path: a new folder, or a store of the same model.
        lang: language of the rows that name none.
        only: keep these languages.
        strict: whether the first row that cannot be used is an error.
        sources_only: leave out rows that name a `source_id`: training takes their source's vector.
        target: see `embed_captions`; so are all that follow.
        normalize: whether rows are scaled to length 1.
        dtype: "float16" or "float32", as the vectors lie on disk.
        token_budget: most tokens of a padded batch.
        devices: several devices of this machine.
        shard_rows: captions between two writes.
        progress: show a bar on stderr.
        report: is called once at the end.

    Raises:
        UnknownLanguageError: `lang` or one of `only` is not known.
        BabelclipError: as the reader and `embed_captions`; what was written stays: mend the file and run again.
    """
    source = sources_of(shadowed(source))
    parts = open_captions(source, lang=lang, strict=strict, only=only)
    total = count_captions(source) if progress else None
    return embed_captions(
        clip,
        own_captions(parts, str(source)) if sources_only else parts,
        path,
        target=target,
        normalize=normalize,
        dtype=dtype,
        token_budget=token_budget,
        devices=devices,
        shard_rows=shard_rows,
        progress=progress,
        total=total,
        source=source_name(source),
        report=report,
    )


def embed_captions(
    clip: Clip,
    captions: Captions | Iterable[Captions],
    path: Path | str,
    *,
    target: str = "projected",
    normalize: bool = False,
    dtype: str = "float16",
    token_budget: int | None = None,
    devices: Sequence[Device] | None = None,
    shard_rows: int | None = None,
    progress: bool = False,
    total: int | None = None,
    source: str = "",
    report: Callable[[EmbedReport], None] | None = None,
) -> EmbeddingStore:
    """Returns the store at `path` with the vector of every caption, encoding those it lacks.

    Run again after an interruption, it goes on behind the last shard, and the store becomes the same as without. Equal
    texts are encoded once, wherever they lie. Memory depends on the size of the parts, not on their number.

    Args:
        clip: the teacher; its text tower is used.
        captions: rows to encode, or parts of them (`open_captions`); vectors are keyed by their ids.
        path: a new folder, or a store of the same model.
        target: "projected", or "pooled", the vector before the projection (see `embed_targets`).
        normalize: teacher learning regresses on raw vectors, so it is False (see docs/architecture.md).
        dtype: "float16" or "float32", as the vectors lie on disk.
        token_budget: see `Clip.encode_text`; so is `devices`. Another value changes vectors by rounding.
        devices: several devices of this machine; None means where the tower is.
        shard_rows: captions between two writes, which an interruption can lose; None: 16,384. Slow models want fewer.
        progress: show a bar on stderr.
        total: rows of all parts with those left out, for the bar; None where it is not known.
        source: what the rows' origin is called in the column `source` and in errors.
        report: is called once at the end with what was done.

    Raises:
        BabelclipError: the store at `path` is of another model, space, target, dimension or dtype; an id is in two
            parts; an id has the vector of another text; or a vector does not fit into float16.
    """
    tower, began = text_tower(clip), time.perf_counter()
    lanes = None if devices is None else replicas(tower, devices)
    settings = TextSettings(target, normalize, token_budget)
    if isinstance(captions, Captions):
        total = len(captions) + sum(captions.skipped.values())
        parts: Iterator[Captions] = _cut(captions)
    else:
        parts = iter(captions)
    skipped: Counter[str] = Counter()
    with EmbeddingStore.open_or_create(
        path,
        space=clip.space,
        model=clip.name or clip.space,
        dim=target_dim(tower, target),
        dtype=dtype,
        normalized=normalize,
        kind="text",
        target=target,
    ) as store:
        sieve, there = Sieve(store, source, reads_language(tower)), len(store)
        encode = functools.partial(encode_new, tower, settings=settings, devices=lanes)
        writer = _Writer(store, encode, source, positive(shard_rows or SHARD_ROWS))
        with progress_bar("Text vectors", total, shown=progress, unit="texts") as advance:
            for part in read_ahead(parts):
                lacking = sieve.lacking(part)
                skipped.update(part.skipped)
                advance(len(part) + sum(part.skipped.values()) - len(lacking), 0)
                writer.add(lacking, advance)
            writer.flush(advance)
        if report is not None:
            added, seconds = len(store) - there, time.perf_counter() - began
            made = EmbedReport(there, added, writer.encoded, dict(skipped), dict(writer.langs), writer.lossy, seconds)
            report(made)
    return EmbeddingStore.open(path)


def sources_of(source: Path | str) -> Path | str:
    """Returns `source`, or of a folder that `babelclip translate` wrote the folder with its source captions."""
    folder = Path(shadowed(source))
    if not is_translation(folder) or not (folder / "sources").is_dir():
        return source
    if read_object(folder / "manifest.json").get("sources", "told") is None:
        _log.warning(
            "%s does not have all its sources yet: embed it again once `babelclip translate` has read them.", source
        )
    return folder / "sources"


def source_name(source: Path | str) -> str:
    """Returns what rows call the source they came from: the same wherever the file lies."""
    path = Path(shadowed(source))
    if not path.exists():
        return str(source)
    return f"{path.parent.name}/{path.name}" if path.name == "sources" else path.name or str(source)


class _Writer:
    """Collects captions, and appends a shard of them as soon as it is full."""

    def __init__(self, store: EmbeddingStore, encode: Callable[..., np.ndarray], source: str, shard_rows: int) -> None:
        self._store, self._encode, self._source, self._shard_rows = store, encode, source, shard_rows
        self._known = KnownTexts(store)
        self._waiting: list[Row] = []
        self.encoded, self.lossy = 0, 0
        self.langs: Counter[str] = Counter()

    def add(self, rows: list[Row], advance: Advance) -> None:
        self._waiting += rows
        while len(self._waiting) >= self._shard_rows:
            self._append(self._waiting[: self._shard_rows], advance)
            del self._waiting[: self._shard_rows]

    def flush(self, advance: Advance) -> None:
        if self._waiting:
            self._append(self._waiting, advance)
            self._waiting = []

    def _append(self, rows: list[Row], advance: Advance) -> None:
        ids, langs, hashes = [row.id for row in rows], [row.lang for row in rows], [row.hash for row in rows]
        refuse_twice([name for name, count in Counter(ids).items() if count > 1])  # of two parts that share a shard
        start = len(self._store)
        first = first_rows(hashes, self._known, start)
        fresh = is_new(first, start)
        new = np.flatnonzero(fresh).tolist()
        advance(len(rows) - len(new), 0)
        texts = [rows[place].text for place in new]
        made = self._encode(texts, [langs[place] for place in new], advance=advance)
        vectors = with_repeats(made, first, start, self._store.gather)
        if self._store.dtype == "float16":
            self.lossy += check_float16(vectors, ids)
        self._store.append(ids, vectors, row_columns(langs, hashes, (~fresh).tolist(), self._source))
        self._known.add(hashes, (~fresh).tolist())
        self.encoded += len(new)
        self.langs.update(langs)


def text_tower(clip: Clip) -> TextEncoder:
    """Returns the text tower of a clip.

    Raises:
        BabelclipError: it has none.
    """
    return clip.text_tower()


def own_captions(parts: Iterable[Captions], source: str) -> Iterator[Captions]:
    """Yields the rows that translate no other; the others are counted as skipped.

    Raises:
        BabelclipError: all rows translate others; said at the end.
    """
    left_out = kept = 0
    for part in parts:
        own = part.table.filter(pc.is_null(part.table["source_id"]))
        here = len(part) - own.num_rows
        kept, left_out = kept + own.num_rows, left_out + here
        yield Captions(own, {**part.skipped, **({LEFT_TO_SOURCE: here} if here else {})})
    if left_out and not kept:
        raise BabelclipError(
            f"{source} has no source captions: each of its {left_out} usable rows names a source_id. Sources are rows "
            "without one: embed the file that holds them, or embed these texts themselves without --sources-only."
        )


def _cut(captions: Captions) -> Iterator[Captions]:
    skipped = captions.skipped
    for start in range(0, len(captions), ROWS):
        yield Captions(captions.table.slice(start, ROWS), skipped if start == 0 else {})


def read_ahead(parts: Iterator[Captions]) -> Iterator[Captions]:
    """Yields `parts`; the next one is read in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = reader.submit(next, parts, None)
            yield part
