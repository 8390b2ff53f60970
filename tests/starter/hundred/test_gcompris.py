from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.starter.hundred.gcompris import read_resources, word_rows
from babelclip.starter.sources import Row

LISTS = {
    "content-en.json": {"apple.ogg": "apple", "U0041.ogg": "A", "10.ogg": "ten", "to_run.ogg": "to run"},
    "content-sv.json": {"apple.ogg": "äpple", "U0041.ogg": "A", "10.ogg": "tio", "to_run.ogg": "", "pear.ogg": "päron"},
    "content-pt_BR.json": {"apple.ogg": "maçã"},
    "content-xx.json": {"apple.ogg": "?"},
    "lang.qml": {"not": "words"},
}


def resources(files: dict[str, bytes], packed: bool = True) -> bytes:
    """A resource file of Qt, version 3, made by hand: a root folder, one folder in it, files in that."""
    names, data, nodes = b"", b"", []
    for number, (name, content) in enumerate({"": b"", "words": b"", **files}.items()):
        flags = 2 if number < 2 else int(packed)
        place = (1, 1) if number == 0 else (len(files), 2) if number == 1 else (0, len(data))
        nodes.append(struct.pack(">IH2IQ", len(names), flags, *place, 0))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        body = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
        data += struct.pack(">I", len(body)) + body if number > 1 else b""
    tree = b"".join(nodes)
    return b"qres" + struct.pack(">4I", 3, 20, 20 + len(tree), 20 + len(tree) + len(data)) + tree + data + names


def write(folder: Path, **options: bool) -> Path:
    files = {name: json.dumps(words).encode() for name, words in LISTS.items()}
    (folder / "lang.rcc").write_bytes(resources(files, **options))
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_files_of_folders_are_read_packed_or_plain(tmp_path, packed):
    found = dict(read_resources(write(tmp_path, packed=packed) / "lang.rcc"))
    assert {name: json.loads(content) for name, content in found.items()} == LISTS


def test_words_meet_the_english_word_and_letters_and_numbers_are_left_out(tmp_path):
    skipped: Counter[str] = Counter()
    assert word_rows(write(tmp_path), skipped) == [
        Row("apple", "en", "apple"),
        Row("to run", "en", "to run"),
        Row("maçã", "pt-BR", "apple"),
        Row("äpple", "sv", "apple"),
        Row("päron", "sv", "pear"),  # the English list lacks it: the name of the sound says it
    ]
    assert skipped == {"list of words in the unknown language xx": 1, "word without a translation": 5}


@pytest.mark.parametrize("cut", [3, 30, 200, -40])
def test_a_damaged_resource_file_is_one_clear_error(tmp_path, cut):
    path = write(tmp_path) / "lang.rcc"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BabelclipError, match=r"lang\.rcc is (damaged|no resource file).*Fetch the package again"):
        list(read_resources(path))
