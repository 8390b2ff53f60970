from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.starter.hundred.gettext import catalogue_rows, clean_message, read_catalogue
from babelclip.starter.sources import Row

# Python's gettext refuses the rule of this header; the messages are in order all the same.
BAD_PLURALS = "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=INTEGER; plural=EXPRESSION;\n"


def catalogue(messages: dict[str, str], order: str = "<", header: str = BAD_PLURALS) -> bytes:
    """A `.mo` file, made by hand: header, two tables of length and place, texts that end in zero."""
    pairs = sorted({"": header, **messages}.items())
    columns = [[text.encode() for text in column] for column in zip(*pairs, strict=True)]
    at, tables, body = 28 + 16 * len(pairs), b"", b""
    for column in columns:
        for text in column:
            tables += struct.pack(f"{order}2I", len(text), at + len(body))
            body += text + b"\x00"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + tables + body


def write(folder: Path, locale: str, messages: dict[str, str]) -> None:
    path = folder / locale / "LC_MESSAGES" / "game.mo"
    path.parent.mkdir(parents=True)
    path.write_bytes(catalogue(messages))


@pytest.mark.parametrize("order", ["<", ">"])
def test_messages_are_read_in_both_byte_orders_whatever_the_plural_rule_says(tmp_path, order):
    path = tmp_path / "a.mo"
    path.write_bytes(catalogue({"menu\x04Open": "Öppna", "one dog\x00many dogs": "en hund\x00många hundar"}, order))
    assert list(read_catalogue(path)) == [("Open", "Öppna"), ("many dogs", "många hundar")]


@pytest.mark.parametrize("content", [b"", b"GIF89a", catalogue({"a": "b"})[:-9], catalogue({"a": "b"})[:20]])
def test_a_damaged_catalogue_is_one_clear_error(tmp_path, content):
    path = tmp_path / "a.mo"
    path.write_bytes(content)
    with pytest.raises(BabelclipError, match=r"a\.mo is (damaged|not a \.mo file).*from the package again"):
        list(read_catalogue(path))


def test_a_catalogue_of_an_unknown_charset_is_damaged(tmp_path):
    path = tmp_path / "a.mo"
    path.write_bytes(catalogue({"a": "b"}, header="Content-Type: text/plain; charset=klingon\n"))
    with pytest.raises(BabelclipError, match="klingon"):
        list(read_catalogue(path))


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        ("unit^Slay the <b>old</b> king", "Slay the old king"),
        ("$unit.name|, you must flee", ", you must flee"),
        ("Cannot open '%s': %d errors", "Cannot open ' ': errors"),
        ("_File and Sa_ve as…", "File and Save as…"),
        ("snake_case", "snakecase"),
        ("a\nb\n\nc", "a b\n\nc"),
    ],
)
def test_messages_lose_what_is_not_language(message, clean):
    assert clean_message(message) == clean


def test_sentences_of_four_words_and_more_become_rows(tmp_path):
    source = "They attack at dawn. We need more swords and shields!"
    write(tmp_path, "sv", {source: "De anfaller i gryningen. Vi behöver fler svärd och sköldar!", "Quit": "Avsluta"})
    skipped: Counter[str] = Counter()
    assert catalogue_rows(tmp_path, skipped) == [
        Row("De anfaller i gryningen.", "sv", "They attack at dawn."),
        Row("Vi behöver fler svärd och sköldar!", "sv", "We need more swords and shields!"),
    ]
    assert skipped == {"message of few or many words, or of other sentences than its source": 1}


def test_sentences_that_do_not_pair_and_untranslated_ones_are_left_out(tmp_path):
    write(tmp_path, "de", {"They attack at dawn.": "Sie kommen. Morgens.", "One two three four": "One two three four"})
    assert catalogue_rows(tmp_path, Counter()) == []


def test_scripts_that_the_code_does_not_tell_unknown_languages_and_damage_are_counted(tmp_path):
    message = {"They attack at dawn.": "x y z w"}
    for locale in ("sr@ijekavianlatin", "en@shaw", "xx", "sr@latin", "pt_BR"):
        write(tmp_path, locale, message)
    (tmp_path / "pt_BR" / "LC_MESSAGES" / "torn.mo").write_bytes(b"\xde\x12\x04\x95")
    skipped: Counter[str] = Counter()
    assert {row.lang for row in catalogue_rows(tmp_path, skipped)} == {"sr-Latn", "pt-BR"}
    assert skipped["damaged catalogue"] == 1
    assert skipped["catalogue in sr@ijekavianlatin, which is not taught"] == 1
    assert sum(skipped.values()) == 4
