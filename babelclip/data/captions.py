"""`Captions`: texts with id and language, and optionally the text they translate, a picture and a label.

| column | also read as | meaning |
|---|---|---|
| `text` | caption, sentence | the caption, kept exactly as it is |
| `lang` | language, lang_code, language_code | any code that `babelclip.languages` knows; kept as BCP-47 |
| `id` | caption_id, key | distinct; without this column, the number of the row in the file, from 0 |
| `source_id` | src_id | id of the text that this one translates |
| `image` | filepath, file_path, filename, file_name, image_path | the picture's file |
| `label` | class, classname | what `text` is an example of |

The name on the left wins. Upper and lower case are the same, other columns are not looked at. A row that cannot be
used is left out and counted in `Captions.skipped` under its reason; with `strict=True` the first one is an error.

Entry points: `read_captions` (Parquet, JSONL, CSV, TSV, each also .gz), `read_lines`, `Captions.from_columns`,
`write_captions`, `write_parts`; every other kind of source, and those larger than memory, are opened by
`babelclip.data.sources`.
`babelclip.data.tables` reads and writes the formats themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from babelclip import languages
from babelclip.data import tables
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path

ALIASES = {
    "id": ("caption_id", "key"),
    "text": ("caption", "sentence"),
    "lang": ("language", "lang_code", "language_code"),
    "source_id": ("src_id",),
    "image": ("filepath", "file_path", "filename", "file_name", "image_path"),
    "label": ("class", "classname"),
}
COLUMN_NAMES = [*ALIASES, *(alias for aliases in ALIASES.values() for alias in aliases)]
SCHEMA = pa.schema([(name, pa.string()) for name in ALIASES])

# Rows of a row group of Parquet: what a reader holds at least.
_GROUP = 1 << 16

NO_ID = "no id"
EMPTY_TEXT = "empty text"
EMPTY_SOURCE = "empty source text"
NO_LANGUAGE = "no language"
UNKNOWN_LANGUAGE = "unknown language"
NO_PICTURE = "no picture"
OTHER_LANGUAGE = "another language"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Captions:
    """N captions. Made by `sources.read_all`, `read_captions`, `read_lines` or `from_columns`.

    Attributes:
        table: N rows with the columns of `SCHEMA`, all strings; ids are distinct, texts are not empty, languages are
            BCP-47; `source_id`, `image` and `label` may be null.
        skipped: how many rows were left out on the way, by reason.

    Example:
        >>> captions = Captions.from_columns(text=["a dog", "en hund", " "], lang=["en", "swe_Latn", "en"])
        >>> captions.langs, captions.skipped
        (['en', 'sv'], {'empty text': 1})
    """

    table: pa.Table
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.table.schema.equals(SCHEMA):
            raise BabelclipError(
                f"Captions got a table with {self.table.schema.names}. It holds the string columns {SCHEMA.names}: use "
                "Captions.from_columns, which checks what it is given."
            )

    @classmethod
    def from_columns(
        cls,
        *,
        text: Sequence[str | None],
        lang: str | Sequence[str | None],
        id: Sequence[str | int | None] | None = None,
        source_id: Sequence[str | int | None] | None = None,
        image: Sequence[str | None] | None = None,
        label: Sequence[str | int | None] | None = None,
        strict: bool = False,
    ) -> Captions:
        """Returns captions from columns of N values; one string as `lang` holds for all, without `id` rows are counted.

        Raises:
            BabelclipError: lengths differ, ids occur twice, no row can be used, or with `strict` one cannot.
        """
        default = lang if isinstance(lang, str) else None
        given: dict[str, Sequence[Any] | None] = {"id": id, "text": text, "source_id": source_id, "image": image}
        given |= {"label": label, "lang": None if isinstance(lang, str) else lang}
        columns = {name: values for name, values in given.items() if values is not None}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1 or any(isinstance(values, str) for values in columns.values()):
            raise BabelclipError(
                f"from_columns got columns of lengths {lengths}. Give each one value per caption, None if it lacks."
            )
        return _captions(tables.raw_columns("from_columns", columns), default, strict)

    @staticmethod
    def concat(parts: Iterable[Captions], what: str = "concat") -> Captions:
        """Returns all captions of `parts` in order, with the sum of what they skipped; `what` names them in errors.

        Raises:
            BabelclipError: an id occurs in two of them.
        """
        listed = list(parts)
        table = pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in listed)])
        _check_distinct_ids(table["id"], what)
        skipped = sum((Counter(part.skipped) for part in listed), Counter[str]())
        return _non_empty(Captions(table, dict(skipped)), what)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def ids(self) -> list[str]:
        """The N ids."""
        return self._list("id")

    @property
    def texts(self) -> list[str]:
        """The N texts."""
        return self._list("text")

    @property
    def langs(self) -> list[str]:
        """The languages of the N texts, BCP-47."""
        return self._list("lang")

    def language_counts(self) -> dict[str, int]:
        """Returns the number of captions by language, in order of the codes."""
        return dict(sorted(Counter(self.langs).items()))

    def select(self, lang: str | Iterable[str]) -> Captions:
        """Returns the captions in one language or in any of several; what other readers skipped stays counted.

        Raises:
            UnknownLanguageError: a code is not known.
            BabelclipError: there are none; names the languages that are there.
        """
        codes = [languages.normalize(code) for code in ([lang] if isinstance(lang, str) else lang)]
        return self._filter(pc.is_in(self.table["lang"], pa.array(codes, pa.string())), f"select(lang={codes})")

    def without_texts(self, texts: Iterable[str]) -> tuple[Captions, int]:
        """Returns the captions whose text is not among `texts`, and how many were removed; see `text_key`.

        Raises:
            BabelclipError: none is left.
        """
        unwanted = {text_key(text) for text in texts}
        keep = np.array([text_key(text) not in unwanted for text in self.texts], dtype=bool)
        return self._filter(pa.array(keep), "without_texts"), int((~keep).sum())

    def require_images(self, folder: Path | str | None = None, strict: bool = False) -> Captions:
        """Returns the captions that have a picture; the others are counted as skipped.

        Args:
            folder: where given, `image` is taken relative to it and the file must be there.
            strict: whether a caption without picture is an error instead.

        Raises:
            BabelclipError: none has a picture, or with `strict` one has not.
        """
        keep = np.array(
            [bool(image) and (folder is None or Path(folder, image).is_file()) for image in self._list("image")]
        )
        lacking = np.flatnonzero(~keep)
        if not len(lacking):
            return self
        if strict or not keep.any():
            missing = f" in {folder}" if folder is not None else ""
            raise BabelclipError(
                f"{len(lacking)} of {len(self)} captions have no picture{missing}, first id "
                f"{self.ids[int(lacking[0])]!r}. Each needs a file name in column image: fill the column, or check the "
                "folder that the names are relative to."
            )
        skipped = Counter(self.skipped) + Counter({NO_PICTURE: len(lacking)})
        return Captions(self.table.filter(pa.array(keep)), dict(skipped))

    def _list(self, column: str) -> list[Any]:
        values: list[Any] = self.table[column].to_pylist()
        return values

    def _filter(self, keep: Any, what: str) -> Captions:
        return _non_empty(Captions(self.table.filter(keep), self.skipped), what, self.language_counts())


def text_key(text: str) -> str:
    """Returns what two captions share that a reader would call the same: NFKC, case folded, white space collapsed."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def read_captions(path: Path | str, lang: str | None = None, strict: bool = False) -> Captions:
    """Returns the captions of a Parquet, JSONL, CSV or TSV file, each also gzipped; see the columns above.

    Args:
        path: the file; CSV and TSV need a header row.
        lang: language of the rows that name none.
        strict: whether the first row that cannot be used is an error.

    Raises:
        UnknownLanguageError: `lang` is not known.
        BabelclipError: the file is missing, damaged, empty, lacks a text column or has an id twice; or no row can be
            used; or, with `strict`, one cannot.
    """
    return _captions(tables.read_table(Path(path), COLUMN_NAMES), lang, strict)


def read_lines(path: Path | str, lang: str, strict: bool = False) -> Captions:
    """Returns the captions of a plain text file, one a line: line 12 in English has the id `en-12`.

    Raises:
        UnknownLanguageError: `lang` is not known.
        BabelclipError: as `read_captions`.
    """
    lang = languages.normalize(lang)
    collector = tables.RowCollector(str(path), ("id", "text"))
    for number, text in enumerate(tables.read_plain_lines(Path(path)), 1):
        collector.add(number, number - 1, (f"{lang}-{number}", text))
    return _captions(collector.table(("id", "text")), lang, strict)


def write_captions(captions: Captions, path: Path | str) -> None:
    """Writes captions as Parquet or JSONL, by the ending of `path` (JSONL also .gz), atomically.

    Raises:
        BabelclipError: the ending is another.
    """
    write_parts([captions], path)


def write_parts(parts: Iterable[Captions], path: Path | str) -> int:
    """Writes captions that come in parts as one file, as `write_captions` does; returns their number.

    The bytes depend on the captions alone, not on how they are divided; memory holds some 65,536 rows.

    Raises:
        BabelclipError: the ending is another, or there is no caption; then nothing is written.
    """
    path = Path(path)
    kind, gzipped = tables.file_format(path), path.name.lower().endswith(".gz")
    if kind not in (".parquet", ".jsonl") or (kind == ".parquet" and gzipped):
        raise BabelclipError(
            f"{path} cannot be written. Captions are written as .parquet, .jsonl or .jsonl.gz: choose one."
        )
    count = 0
    with atomic_path(path) as temporary, contextlib.ExitStack() as opened:
        if kind == ".parquet":
            add = opened.enter_context(pq.ParquetWriter(temporary, SCHEMA, compression="zstd")).write_table
        else:
            file: Any = opened.enter_context(temporary.open("wb"))
            # No name and no time inside, so that equal captions give equal bytes.
            packed = opened.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0)) if gzipped else file
            add = functools.partial(_write_lines, packed)
        for group in _groups(parts):
            add(group)
            count += group.num_rows
        if not count:
            raise BabelclipError(f"There is no caption to write to {path}. At least one is needed: check the source.")
    return count


def _groups(parts: Iterable[Captions]) -> Iterator[pa.Table]:
    """Yields tables of `_GROUP` rows, the last one of fewer."""
    waiting = SCHEMA.empty_table()
    for part in parts:
        waiting = pa.concat_tables([waiting, part.table])
        while waiting.num_rows >= _GROUP:
            yield waiting.slice(0, _GROUP).combine_chunks()
            waiting = waiting.slice(_GROUP)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _write_lines(file: Any, table: pa.Table) -> None:
    for row in table.to_pylist():
        present = {name: value for name, value in row.items() if value is not None}
        file.write((json.dumps(present, ensure_ascii=False) + "\n").encode())


# -- from raw columns to captions ------------------------------------------------------------------------------------


def _captions(raw: RawTable, default_lang: str | None, strict: bool) -> Captions:
    """Returns the usable rows of `raw`, one at least; counts the others, or with `strict` raises at the first."""
    captions, unknown = usable_rows(raw, default_lang, strict)
    warn_of_unknown(raw.source, captions.skipped, unknown)
    return captions if len(captions) else raise_nothing_left(raw.source, captions.skipped, unknown)


def usable_rows(raw: RawTable, default_lang: str | None, strict: bool) -> tuple[Captions, dict[str, str]]:
    """Returns the usable rows of `raw`, perhaps none, and what `languages` says about each unknown code.

    Raises:
        BabelclipError: as `read_captions`, but for a file without a usable row.
    """
    columns: dict[str, Any] = {name: raw.columns[column] for name, column in named_columns(raw).items()}
    count = len(raw.places)
    missing = pa.nulls(count, pa.string())
    columns.setdefault("text", missing)
    # An empty value of an optional column is no value: CSV and TSV know no other way to leave one out.
    for name, values in columns.items():
        if name != "text":
            columns[name] = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    columns.setdefault("id", pc.cast(pa.array(raw.positions), pa.string()))
    given = columns.get("lang", missing)
    if default_lang is not None:
        given = pc.fill_null(given, languages.normalize(default_lang))
    columns["lang"], unknown = _canonical(given)
    reasons = {
        NO_ID: _mask(pc.is_null(columns["id"])),
        EMPTY_TEXT: _mask(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(columns["text"]), ""), True)),
        NO_LANGUAGE: _mask(pc.is_null(given)),
        UNKNOWN_LANGUAGE: _mask(pc.is_valid(given)) & _mask(pc.is_null(columns["lang"])),
    }
    keep, skipped, first, why = np.ones(count, dtype=bool), raw.skipped.copy(), raw.first_skipped, ""
    for reason, bad in reasons.items():
        bad &= keep
        keep &= ~bad
        if bad.any():
            skipped[reason] += int(bad.sum())
            row = int(np.argmax(bad))
            place = (int(raw.places[row]), reason)
            if first is None or place < first:
                first = place
                why = f" ({unknown[given[row].as_py()]})" if reason == UNKNOWN_LANGUAGE else ""
    if strict and first is not None:
        raise BabelclipError(
            f"{raw.source}, {raw.unit} {first[0]}: {first[1]}{why}. Every row needs a text in UTF-8 and a "
            "known language: mend the row, or read without strict to skip and count such rows."
        )
    table = pa.table([columns.get(name, missing) for name in SCHEMA.names], schema=SCHEMA).filter(pa.array(keep))
    _check_distinct_ids(table["id"], raw.source)
    return Captions(table, dict(skipped)), unknown


def warn_of_unknown(source: str, skipped: Mapping[str, int], unknown: dict[str, str]) -> None:
    """Logs how many rows had a language that is not known, and what the first was; nothing where none had."""
    if unknown:
        _log.warning("%s: %d rows left out: %s", source, skipped[UNKNOWN_LANGUAGE], next(iter(unknown.values())))


def named_columns(raw: RawTable) -> dict[str, str]:
    """Returns which column of `raw` holds what `SCHEMA` names.

    Raises:
        BabelclipError: the text is missing, or two columns have the same meaning.
    """
    columns = {}
    for name, aliases in ALIASES.items():
        present = [name] if name in raw.columns else [alias for alias in aliases if alias in raw.columns]
        if len(present) > 1:
            raise BabelclipError(
                f"{raw.source} has the columns {present}, which all mean {name!r}. One is allowed: name {name!r} the "
                "one to read."
            )
        if present:
            columns[name] = present[0]
    if "text" in columns:
        return columns
    if not raw.names and raw.skipped:
        return {}  # not one line was an object, so nothing is known of columns; the counts tell more
    if not raw.names:
        raise BabelclipError(f"{raw.source} is empty. A caption file holds at least one row: check how it was made.")
    raise BabelclipError(
        f"{raw.source} has no column for the text; it has {raw.names[:8]}. It must be called 'text' or "
        f"{' or '.join(map(repr, ALIASES['text']))}, in the header row of CSV and TSV: rename it or add the header."
    )


def _canonical(given: Any) -> tuple[Any, dict[str, str]]:
    """Returns BCP-47 codes, null where unknown, and what `languages` says about each unknown code."""
    distinct = [code for code in pc.unique(given).to_pylist() if code is not None]
    canonical: list[str | None] = []
    unknown: dict[str, str] = {}
    for code in distinct:
        try:
            canonical.append(languages.normalize(code))
        except languages.UnknownLanguageError as error:
            canonical.append(None)
            unknown[code] = str(error)
    places = pc.index_in(given, pa.array(distinct, pa.string()))
    return pa.array(canonical, pa.string()).take(
        places.combine_chunks() if hasattr(places, "chunks") else places
    ), unknown


def _mask(values: Any) -> npt.NDArray[np.bool_]:
    return np.array(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy(), bool)


def _check_distinct_ids(ids: pa.ChunkedArray, source: str) -> None:
    if pc.count_distinct(ids).as_py() < len(ids):
        twice = [name for name, count in Counter(ids.to_pylist()).items() if count > 1]
        raise BabelclipError(
            f"{source}: {len(twice)} ids occur more than once, first {twice[:3]}. An id names one caption: give each "
            "its own, for example with the language at its end, or leave the column out."
        )


def raise_nothing_left(source: str, skipped: Mapping[str, int], unknown: dict[str, str]) -> NoReturn:
    """Raises the error for a source without a usable row."""
    counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "it has no rows"
    cure = "check the file"
    if NO_LANGUAGE in skipped:
        cure = "add a column lang, or pass the language of the texts as lang='sv' (--lang sv)"
    elif unknown:
        cure = next(iter(unknown.values()))
    raise BabelclipError(
        f"{source} has no usable caption ({counts}). At least one row needs a text in UTF-8 and a known language: "
        f"{cure}"
    )


def _non_empty(captions: Captions, what: str, there: dict[str, int] | None = None) -> Captions:
    if not len(captions):
        listed = f" of {sum(there.values())} ({', '.join(there)})" if there else ""
        raise BabelclipError(
            f"{what} leaves no caption{listed}. At least one is needed: choose languages that are there, or give more "
            "captions."
        )
    return captions
