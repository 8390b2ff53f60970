"""`index_pictures`: pictures from any source into a collection; run again, it adds, updates and, if asked, removes.

A picture is decoded once, for the model and for its thumbnail, in threads or processes ahead of the model. Rows are
written in blocks of some seconds of work, each a transaction of the collection: a kill loses the block at hand, and
the next run begins with what the collection lacks. Nothing else is kept to resume from.

Memory holds 25 bytes for each row of the collection, two blocks of rows with thumbnails (some 15 kB each), three
batches of pixels, and one decoded picture for each decoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.decoding import EncodeReport, decoder_pool
from babelclip.models.encoding import Device
from babelclip.models.image import SkippedPicture
from babelclip.progress import progress_bar
from babelclip.search import near_duplicates
from babelclip.search.collection import (
    Collection,
    ImageSpace,
    IndexReport,
    IndexSpec,
    create_collection,
    open_collection,
)
from babelclip.search.columns import FIXED
from babelclip.search.filters import Eq
from babelclip.search.index_columns import parse_columns, read_side, with_types
from babelclip.search.index_known import CHANGED, NEW, SAME, TOLD, Known
from babelclip.search.index_open import open_sources, table_schema
from babelclip.search.index_sources import Found, PictureSource, Problems, Wanted
from babelclip.search.index_state import Waiting, lock_collection
from babelclip.search.index_write import HELD, Blocks, TowerEncoder, Writer
from babelclip.search.recall import caption_queries
from babelclip.search.thumbnails import HeldPicture
from babelclip.storage import address

# Pictures that are compared with the collection at once.
_LOOK = 1024
# Rows that are deleted at once.
_IDS = 500
_LOG = logging.getLogger(__name__)

# Texts (N) -> vectors (N, D) float32.
EncodeTexts = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class IndexingReport:
    """What one run did.

    Attributes:
        there: rows that the collection had before.
        added: new pictures.
        updated: pictures whose file had changed.
        told: rows that got another caption, other metadata, or a new time of an unchanged file.
        unchanged: pictures that were there.
        gone: rows whose picture is gone: removed with `prune`, kept without.
        pruned: rows that were removed.
        skipped: pictures that cannot be read.
        problems: what else sources could not give, by reason, with the first of each.
        groups: near-duplicate groups of the collection, and the pictures in them; None where not looked for.
        encode: speed, and whether decoding or the model was the limit.
        write_seconds: that writing made the model wait.
        seconds: in all.
        rows: of the collection at the end.
        index: of the vectors, None where it was not built anew.
        unused: rows of the table of captions that belong to no picture.
    """

    there: int
    added: int
    updated: int
    told: int
    unchanged: int
    gone: int
    pruned: int
    skipped: int
    problems: Mapping[str, tuple[int, str]]
    groups: tuple[int, int] | None
    encode: EncodeReport
    write_seconds: float
    seconds: float
    rows: int
    index: IndexReport | None = None
    unused: int = 0


def index_pictures(
    clip: Clip,
    sources: Sequence[Path | str],
    url: Path | str,
    *,
    captions: Path | str | None = None,
    columns: Sequence[str] = (),
    lang: str | None = None,
    image_root: Path | str | None = None,
    prune: bool = False,
    strict: bool = False,
    groups: bool = True,
    batch_size: int = 32,
    workers: int = 0,
    devices: Sequence[Device] | None = None,
    block: int | None = None,
    progress: bool = False,
    on_skip: Callable[[SkippedPicture], None] | None = None,
) -> IndexingReport:
    """Returns what was done to bring the collection at `url` up to date with its sources; made where there is none.

    Args:
        clip: its picture tower encodes.
        sources: see `index_sources.py`.
        url: NAME.lance and the like (`open_collection`).
        captions: table with captions and metadata of pictures (`index_columns.read_side`).
        columns: metadata to keep, as `name` or `name:type`; those that the collection has are kept in any case.
        lang: language of captions whose source does not say it.
        image_root: folder below which the files lie that a table names.
        prune: remove rows of these sources whose picture is gone.
        strict: whether the first picture or row that cannot be used is an error.
        groups: look for near duplicates among what is new.
        batch_size: pictures a forward pass.
        workers: processes that decode; 0 does so in threads.
        devices: several devices of this machine; None means where the tower is.
        block: pictures between two writes, what a kill can lose; None: some five seconds of work.
        progress: show bars on stderr.
        on_skip: is called with each picture that cannot be read.

    Raises:
        PictureError: with `strict`, a picture cannot be read.
        BabelclipError: a source is of no known kind or has no picture, another run writes the collection, it belongs to
            another model, or with `strict` a source could not give all.
    """
    began = perf_counter()
    tower = clip.image_tower()
    release = lock_collection(url)
    try:
        wanted = parse_columns(columns)
        collection, opened = prepared(clip, sources, url, wanted, image_root)
        own = {name: kind for name, kind in collection.columns.items() if name not in FIXED}
        side = read_side(captions, own, lang) if captions is not None else None
        asked = Wanted(own, side, lang, Problems())
        with contextlib.closing(collection):
            known = Known(collection, list(own))
            total = count_all(opened, asked) if progress and sys.stderr.isatty() else None
            with decoder_pool(workers, _LOOK) as pool, Writer(collection, Waiting(url)) as writer:
                settings = {"batch_size": batch_size, "workers": workers, "pool": pool}
                encode = TowerEncoder(tower, devices, strict=strict, **settings)
                with progress_bar("Pictures", total, shown=progress, unit="pictures", note=encode.note) as advance:
                    blocks = Blocks(
                        collection, known, writer, encode, pool, advance, batch=batch_size, size=block, on_skip=on_skip
                    )
                    for found in in_parts(walk_all(opened, asked)):
                        blocks.take(found)
                    blocks.finish()
            check_found(asked.problems, collection, strict, blocks.counts["skipped"])
            gone, pruned = _gone(collection, known, opened, prune, asked.problems)
            made = near_duplicates.group(collection, url, progress=progress) if groups else None
            wrote = sum(blocks.counts[kind] for kind in (NEW, CHANGED, TOLD)) + pruned
            return IndexingReport(
                there=len(known),
                added=blocks.counts[NEW],
                updated=blocks.counts[CHANGED],
                told=blocks.counts[TOLD],
                unchanged=blocks.counts[SAME],
                gone=gone,
                pruned=pruned,
                skipped=blocks.counts["skipped"],
                problems={reason: (n, asked.problems.first[reason]) for reason, n in asked.problems.counts.items()},
                groups=made,
                encode=encode.report,
                write_seconds=writer.seconds,
                index=settled(collection, clip.encode_text if clip.text is not None else None) if wrote else None,
                rows=collection.count(),
                seconds=perf_counter() - began,
                unused=len(side) - len(side.used) if side is not None else 0,
            )
    finally:
        release()


def fingerprint_of(clip: Clip) -> ImageSpace:
    """Returns what collections keep of the model whose picture tower encodes them."""
    tower = clip.image_tower()
    described = json.dumps(tower.preprocess.to_dict(), sort_keys=True)
    name = clip.name or clip.space
    return ImageSpace(
        space=clip.space,
        image_model=name,
        revision=clip.revision,
        dim=clip.embed_dim,
        preprocess=hashlib.sha256(described.encode()).hexdigest()[:16],
        dtype=str(next(tower.parameters()).dtype).removeprefix("torch."),
        text_models=(name,) if clip.text is not None else (),
    )


def opened_or_created(
    url: Path | str, fingerprint: ImageSpace, columns: Mapping[str, str], roots: Mapping[str, str]
) -> Collection:
    """Returns the collection at `url` for writing, with these columns; made where there is none.

    Raises:
        SpaceMismatchError: it lies in another space.
        BabelclipError: its pictures were encoded by another model, or it is damaged.
    """
    if "://" not in str(url) and not Path(url).expanduser().exists():
        return create_collection(url, fingerprint, columns=columns, roots=roots)
    try:
        collection = open_collection(url, write=True)
    except BabelclipError as unopened:
        try:  # on a server there may be none yet; in a folder, one whose making was stopped
            return create_collection(url, fingerprint, columns=columns, roots=roots)
        except BabelclipError:
            raise unopened from None
    try:
        collection.fingerprint.check_same(fingerprint, f"collection {url} and the model {fingerprint.image_model}")
        if lacking := {name: kind for name, kind in columns.items() if name not in collection.columns}:
            collection.add_columns(lacking)
    except BaseException:
        collection.close()
        raise
    return collection


def prepared(
    clip: Clip,
    sources: Sequence[Path | str],
    url: Path | str,
    wanted: Mapping[str, str],
    image_root: Path | str | None,
) -> tuple[Collection, list[PictureSource]]:
    """Returns the collection at `url`, open for writing and with the `wanted` columns, and its sources.

    Raises:
        BabelclipError: as `index_pictures`.
    """
    if not sources:
        raise BabelclipError("No source was given. Give folders of pictures, .tar files or tables.")
    open_sources(sources, {}, image_root)  # a wrong path must not leave an empty collection behind
    schema = next((found for source in sources if (found := table_schema(source)) is not None), None)
    typed = with_types(wanted, schema)
    collection = opened_or_created(url, fingerprint_of(clip), typed, {})
    opened = open_sources(sources, collection.roots, image_root)
    roots = {**collection.roots, **{source.name: address(source.root) for source in opened}}
    if roots != dict(collection.roots):
        collection.set_roots(roots)
    return collection, opened


def count_all(sources: Sequence[PictureSource], wanted: Wanted) -> int:
    """Returns how many pictures the sources have."""
    return sum(1 for _item in walk_all(sources, dataclasses.replace(wanted, problems=Problems())))


def walk_all(sources: Sequence[PictureSource], wanted: Wanted) -> Iterator[Found]:
    """Yields the pictures of all sources, one source after the other."""
    for source in sources:
        yield from source.walk(source.name, wanted)


def in_parts(found: Iterator[Found]) -> Iterator[list[Found]]:
    """Yields pictures some at a time: fewer where their files are in memory already."""
    part: list[Found] = []
    held = 0
    for item in found:
        part.append(item)
        held += item.size if isinstance(item.picture, HeldPicture) else 0
        if len(part) >= _LOOK or held > HELD:
            yield part
            part, held = [], 0
    if part:
        yield part


def check_found(problems: Problems, collection: Collection, strict: bool, skipped: int) -> None:
    """Does nothing where the sources gave something, and with `strict` all of it.

    Raises:
        BabelclipError: they did not.
    """
    if strict and problems.counts:
        reason = next(iter(problems.counts))
        raise BabelclipError(
            f"{problems.first[reason]}: {reason} ({problems.counts[reason]} times). All that a source names must "
            "be usable with --strict: mend it, or leave --strict out, which counts and names it."
        )
    if not collection.count():
        words = "; ".join(f"{n} {reason}, first {problems.first[reason]}" for reason, n in problems.counts.items())
        raise BabelclipError(
            f"The sources hold no picture that can be read ({skipped} cannot{f'; {words}' if words else ''}), so "
            "the collection stays empty. Give whole pictures."
        )


def _gone(
    collection: Collection, known: Known, sources: Sequence[PictureSource], prune: bool, problems: Problems
) -> tuple[int, int]:
    """Returns how many rows of these sources have lost their picture, and how many of them were removed."""
    gone = gone_ids(collection, known, sources, problems)
    return len(gone), remove(collection, gone) if prune else 0


def gone_ids(collection: Collection, known: Known, sources: Sequence[PictureSource], problems: Problems) -> list[str]:
    """Returns the ids of rows of these sources that have lost their picture, after all were walked."""
    gone: list[str] = []
    for source in sources:
        if source.name in problems.incomplete:
            _LOG.warning("%s could not be listed whole, so nothing of it is taken for gone.", source.root)
            continue
        for batch in collection.scan(where=Eq("source", source.name)):
            gone += known.unseen(batch["id"].to_pylist())
    return gone


def remove(collection: Collection, ids: Sequence[str]) -> int:
    """Returns how many of these rows were there, and were removed."""
    return sum(collection.delete(ids=ids[start : start + _IDS]) for start in range(0, len(ids), _IDS))


def settled(collection: Collection, encode_text: EncodeTexts | None) -> IndexReport | None:
    """Compacts what was written, and builds the index of the vectors where the collection advises one.

    Captions are its text queries: they lie elsewhere in the space than pictures, and are found less surely. They are
    encoded by `encode_text`, None where the model has no text tower.
    """
    collection.optimize()
    if not collection.stats().advice:
        return None
    texts = caption_queries(collection, encode_text) if encode_text is not None else None
    return collection.build_index(IndexSpec(text_queries=texts))
