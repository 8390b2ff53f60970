"""Plain lines: one file, or several that are aligned (Moses), line n of each saying the same.

    moses:train.en,train.sv        two languages; the first one is the source
    moses:train.en.gz,train.de.gz,train.fr.gz
    moses:train.en                 one: lines without translation

Line 12 of train.en is the row `en-12`; line 12 of train.sv is `sv-12` with source_id `en-12`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from babelclip import languages
from babelclip.data import tables
from babelclip.data.captions import EMPTY_SOURCE
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError

_COLUMNS = ("id", "source_id", "text", "lang")


def is_plain_lines(path: Path) -> bool:
    """Returns whether the name of `path` ends in .txt or in a language code, with or without `.gz`."""
    return _ending(path) == "txt" or language_of(path) is not None


def language_of(path: Path) -> str | None:
    """Returns the language that the ending of `path` names, as in train.sv or train.sv.gz."""
    with contextlib.suppress(languages.UnknownLanguageError):
        return languages.normalize(_ending(path))
    return None


def iter_lines(path: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the lines of one file in parts; its ending or else `lang` tells the language.

    Raises:
        BabelclipError: neither tells it, or the file is missing or damaged.
    """
    return iter_aligned([path], rows, lang)


def iter_aligned(paths: Sequence[Path], rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the lines of aligned files, the first one being the source: for each line its source, then translations.

    Args:
        paths: one file a language; where the ending names none, the source is English and the other one is `lang`.
        rows: lines in a part.
        lang: see `paths`.

    Raises:
        BabelclipError: a language is not told or told twice, a file is missing, or they differ in their lines.
    """
    for path in paths:
        tables.check_file(path)
    return _iter_aligned(paths, _languages(paths, lang), rows)


def count_lines(paths: Sequence[Path]) -> int | None:
    """Returns how many rows `iter_aligned` gives, None where only reading would tell (.gz)."""
    if any(path.name.lower().endswith(".gz") for path in paths):
        return None
    tables.check_file(paths[0])
    with paths[0].open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return lines * len(paths)


def _iter_aligned(paths: Sequence[Path], codes: Sequence[str], rows: int) -> Iterator[RawTable]:
    collector = tables.RowCollector(", ".join(map(str, paths)), _COLUMNS)
    lines = [0] * len(paths)
    for number, texts in enumerate(itertools.zip_longest(*map(tables.iter_plain_lines, paths)), 1):
        lines = [before + (text is not None) for before, text in zip(lines, texts, strict=True)]
        if None in texts:
            continue  # only the number of lines is still of interest
        source, origin = texts[0], f"{codes[0]}-{number}"
        problem = None
        if len(paths) > 1:
            problem = tables.NOT_UTF8 if not tables.is_utf8(source) else EMPTY_SOURCE if not source.strip() else None
        collector.add(number, number - 1, (origin, None, source, codes[0]), problem)
        for code, text in zip(codes[1:], texts[1:], strict=True):
            collector.add(number, number - 1, (f"{code}-{number}", origin, text, code), problem)
        if number % rows == 0:
            yield collector.table(_COLUMNS)
    if len(set(lines)) > 1:
        counts = ", ".join(f"{path} has {count}" for path, count in zip(paths, lines, strict=True))
        raise BabelclipError(
            f"Aligned files differ in their lines: {counts}. They have equally many, line n of one being the "
            "translation of line n of the others: take all from the same release."
        )
    yield collector.table(_COLUMNS)


def _languages(paths: Sequence[Path], lang: str | None) -> list[str]:
    codes: list[str] = []
    for place, path in enumerate(paths):
        code = language_of(path) or ("en" if place == 0 and len(paths) > 1 else lang)
        if code is None:
            raise BabelclipError(
                f"{path} holds plain lines, which do not say their language, and its name does not end in one. "
                f"Call it {path.name.split('.')[0]}.sv, for example, or pass the language of its texts as lang='sv' "
                "(--lang sv)."
            )
        if code in codes:
            raise BabelclipError(
                f"{paths[codes.index(code)]} and {path} are both read as {code}. Aligned files are one a language: let "
                "their names end in the language code."
            )
        codes.append(code)
    return codes


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix.removeprefix(".")
