"""Descriptions of Debian packages and their translations, as apt-get downloads them for any language.

Stanzas of English and of translated lists carry the same Description-md5. Entry points: `find_lists`, `list_rows`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from babelclip import languages
from babelclip.data.captions import text_key
from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, cache_folder
from babelclip.starter.hundred.sentences import clean_words, sentence_pairs
from babelclip.starter.sources import Row

ATTRIBUTION = "Descriptions of packages and their translations: the Debian Description Translation Project, GPL-2+"
# The lists with some thousand descriptions, and the smaller ones of languages that other sources lack.
_LISTS = "en cs da de es fi fr hu it ja ko nl pl pt pt_BR ru sk sr sv uk vi zh_CN zh_TW".split()
_SECONDS = 600
_NAME = re.compile(r"_i18n_Translation-([A-Za-z_%0-9]+)$")


def find_lists(cache: Path | None = None, download: bool = True) -> Path:
    """Returns a folder with files `Translation-<language>`, unpacked, fetched by apt-get where they are not cached.

    The lists go into a folder of their own; the system's are left as they are, and no root is needed.

    Raises:
        BabelclipError: they are not there and cannot be had.
    """
    target = (cache or cache_folder()) / "debian-translations"
    if target.is_dir():
        return target
    cure = (
        f"On Debian or Ubuntu they come with apt-get; elsewhere copy such files Translation-de, ... unpacked from "
        f"/var/lib/apt/lists of such a machine into {target}."
    )
    if not download:
        raise BabelclipError(f"Descriptions of packages: not on this machine, and no download was asked. {cure}")
    if shutil.which("apt-get") is None:
        raise BabelclipError(f"Descriptions of packages: apt-get is not on this system. {cure}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        complaint = _update(Path(name))
        lists = {
            path: match[1] for path in sorted(Path(name, "lists").glob("*_main_i18n_*")) if (match := _match(path))
        }
        if not any(lang == "en" for lang in lists.values()):
            raise BabelclipError(f"Descriptions of packages: apt-get brought none ({complaint or 'no list'}). {cure}")
        with atomic_folder(target) as temporary:
            for path, lang in lists.items():
                with Path(temporary, f"Translation-{lang}").open("ab") as file:
                    file.write(_unpacked(path))
    return target


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.search(path.name.replace("%5f", "_").removesuffix(path.suffix if path.suffix != ".main" else ""))


def _update(folder: Path) -> str:
    """Runs apt-get update with all lists of languages into `folder`; returns its complaint, or nothing."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    # An option can only add to the languages that the system asks for, which may be "none".
    chosen = " ".join(f'"{lang}";' for lang in _LISTS)
    (folder / "conf").write_text(f"#clear Acquire::Languages;\nAcquire::Languages {{ {chosen} }};\n")
    options = [f"Dir::State::lists={folder / 'lists'}", f"Dir::Cache={folder / 'cache'}", "APT::Sandbox::User=root"]
    command = [
        "apt-get",
        "-q",
        "-c",
        str(folder / "conf"),
        *(word for one in options for word in ("-o", one)),
        "update",
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return str(error)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if done.returncode and lines else ""


def _unpacked(path: Path) -> bytes:
    """Returns a list as text; apt knows its own compressions."""
    done = subprocess.run(
        ["/usr/lib/apt/apt-helper", "cat-file", str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise BabelclipError(
            f"{path.name} cannot be unpacked: {done.stderr.decode(errors='replace').strip()}. Try again."
        )
    return done.stdout + b"\n"


def list_rows(folder: Path, skipped: Counter[str]) -> list[Row]:
    """Returns the summaries and sentences of all translated lists, with the English ones as targets.

    Args:
        folder: with files `Translation-<language>`, `Translation-en` among them.
        skipped: counts what could not be used, by reason.

    Raises:
        BabelclipError: there is no English list.
    """
    english_list = folder / "Translation-en"
    if not english_list.is_file():
        raise BabelclipError(f"{folder} has no Translation-en, the text that others translate: fetch the lists again.")
    english = dict(_descriptions(english_list, skipped))
    rows: list[Row] = []
    for path in sorted(folder.glob("Translation-*")):
        locale = path.name.partition("-")[2]
        try:
            lang = languages.normalize(locale)
        except languages.UnknownLanguageError:
            skipped[f"descriptions in the unknown language {locale}"] += 1
            continue
        if lang != "en":
            rows += _rows(path, lang, english, skipped)
    return rows


def _rows(path: Path, lang: str, english: dict[str, list[str]], skipped: Counter[str]) -> Iterator[Row]:
    for checksum, paragraphs in _descriptions(path, skipped):
        sources = english.get(checksum, [])
        if len(sources) != len(paragraphs):
            skipped["description with other paragraphs than its source"] += 1
            continue
        for source, text in zip(sources, paragraphs, strict=True):
            for one, two in sentence_pairs(source, text):
                if text_key(one) != text_key(two):
                    yield Row(two, lang, one)


def _descriptions(path: Path, skipped: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields checksum and paragraphs, the summary first, of each stanza of a list."""
    for stanza in path.read_bytes().split(b"\n\n"):
        try:
            lines = stanza.decode("utf-8").splitlines()
        except UnicodeDecodeError:
            skipped["description of invalid UTF-8"] += 1
            continue
        checksum = next((line[17:].strip() for line in lines if line.startswith("Description-md5: ")), "")
        start = next(
            (at for at, line in enumerate(lines) if line.startswith("Description-") and at and "-md5:" not in line),
            None,
        )
        if not checksum or start is None:
            if any(lines):
                skipped["stanza without checksum or description"] += 1
            continue
        summary = lines[start].partition(":")[2].strip()
        yield checksum, [clean_words(part) for part in [summary, *_paragraphs(lines[start + 1 :])]]


def _paragraphs(lines: list[str]) -> list[str]:
    """Returns the paragraphs of the body of a stanza; a line " ." ends one; lists and tables are left out."""
    found: list[list[str]] = [[]]
    for line in lines:
        if not line.startswith(" "):
            break
        if line.strip() == ".":
            found.append([])
        else:
            found[-1].append(line)
    # Lines with a further space are set as they are: lists and tables.
    return [" ".join("" if line.startswith("  ") else line.strip() for line in part) for part in found if part]
