"""Texts that translate each other line by line: Multi30k, Moses files, FLORES, any folder of aligned files.

A line that is blank or not UTF-8 in one language is left out of all, so that positions stay aligned; how many is noted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from babelclip.data import tables
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.aligned import multi30k_files
from babelclip.evaluate.benchmarks.request import Request, Skips, language_of, text_problem
from babelclip.evaluate.benchmarks.sets import ParallelTexts

_FLORES_FILE = re.compile(r"(\w{3}_[A-Z]\w{3})\.(dev|devtest|test)")
_NOT_TEXTS = frozenset({".json", ".md", ".txt", ".tsv", ".csv", ".py", ".sh"})
LEFT_OUT = "line that is blank or not UTF-8 in a language"


def read_multi30k_texts(request: Request) -> ParallelTexts:
    """Returns Multi30k's captions as translations of each other, without pictures."""
    files = multi30k_files(request)
    split = request.choose_split(files)
    return _read(request, split, {lang: paths[0] for lang, paths in files[split].items()})


def read_flores(request: Request) -> ParallelTexts:
    """Returns a split of FLORES-200: `devtest/deu_Latn.devtest`."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in [path for ending in ("devtest", "dev", "test") for path in request.find(f"*_*.{ending}")]:
        match = _FLORES_FILE.fullmatch(path.name)
        lang = language_of(match.group(1)) if match else None
        if match and lang:
            found[match.group(2)][lang] = path
    split = request.choose_split(found)
    return _read(request, split, found[split])


def read_parallel(request: Request) -> ParallelTexts:
    """Returns the files of a folder whose names end in a language, `test.en`, `test.sv.gz`; `test` is the split.

    Given files instead, `corpus.en,corpus.sv`, those.
    """
    paths = [Path(name) for name in str(request.root).split(",")]
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(path for path in paths[0].iterdir() if path.is_file() and not path.name.startswith("."))
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        name = Path(path.name.removesuffix(".gz"))
        lang = language_of(name.suffix[1:]) if name.suffix and name.suffix not in _NOT_TEXTS else None
        if lang:
            found[name.stem][lang] = path
    several = {split: files for split, files in found.items() if len(files) > 1}
    if not several:
        raise request.missing("two files of one name that end in a language, such as test.en and test.sv")
    split = request.choose_split(several)
    return _read(request, split, several[split])


def _read(request: Request, split: str, files: Mapping[str, Path]) -> ParallelTexts:
    request.check_languages(files)
    wanted = {lang: path for lang, path in files.items() if request.wants(lang)}
    order = request.languages or sorted(wanted, key=lambda lang: (lang != "en", lang))
    if len(wanted) < 2:
        raise BabelclipError(
            f"{request.root} has {split} in {', '.join(wanted) or 'no language'} of those asked for. Two languages are "
            f"needed: ask for two of {', '.join(sorted(files))}."
        )
    lines = {lang: tables.read_plain_lines(wanted[lang]) for lang in order}
    counts = {str(wanted[lang]): len(own) for lang, own in lines.items()}
    if len(set(counts.values())) > 1:
        raise BabelclipError(
            f"Aligned files have {', '.join(f'{count} lines ({path})' for path, count in counts.items())}. They have "
            "equally many, line n of one translating line n of the others: take all from the same release."
        )
    skips = Skips(request.strict)
    kept = []
    for number, row in enumerate(zip(*lines.values(), strict=True)):
        if any(text_problem(text) for text in row):
            skips.add(LEFT_OUT, f"line {number + 1}")
        else:
            kept.append(number)
    if not kept:
        raise request.missing(f"line with a text in every language ({'; '.join(skips.notes()) or 'files are empty'})")
    texts = {lang: [own[number] for number in kept] for lang, own in lines.items()}
    return ParallelTexts(request.name, split, texts, notes=(*request.entry.notes, *skips.notes()))
