"""The pieces of a tokenizer: which ones some texts or scripts need, and the same tokenizer without the rest.

A smaller vocabulary must cut covered text exactly as before. Let K be the pieces that stay and w a text of whose best
segmentation every piece is in K.

* **Unigram** takes the path of the highest sum of scores. Without the other pieces every sum is what it was or is gone,
  so the best path stays the best, and of equal ones the first stays the first. A single character whose piece is gone
  may newly be taken as unknown, at the lowest score of the vocabulary less a penalty: that is below the piece's own
  score as long as the lowest score is what it was. The piece with the lowest score is therefore always kept.
* **BPE** joins, again and again, the neighbours whose merge ranks first. The merges inside the span of a final piece
  are those of the piece by itself, since nothing ever joins across its ends. If K holds every piece on the way to a
  kept one (`with_parts`), each merge that w went through is still there and, among fewer, still ranks first.
  A merge that is gone can only have fired in a word that is not covered; that word is then cut into smaller pieces.
* **WordPiece** takes the longest piece that fits, from the left. With fewer pieces the one taken before still fits and
  none longer has come. A word that ends as unknown gets there by pieces that must stay too (`dead_ends`): without
  them it could come to be cut.

Text in the characters of a script meets only pieces in these characters. If all of them stay, nothing changes at all.

Entry points: `read_vocabulary`, `Vocabulary`, `without`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from babelclip.errors import BabelclipError
from babelclip.models.tokenization import TextTokenizer
from babelclip.scripts import in_scripts

KINDS = ("Unigram", "BPE", "WordPiece")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """A `tokenizer.json` taken apart.

    Attributes:
        content: the file as a JSON object.
        kind: one of `KINDS`.
        pieces: each id's spelling in the file, added tokens included.
        added: ids of the added tokens.
        byte_level: whether a character of a piece stands for a byte (CLIP).
    """

    content: dict[str, Any]
    kind: str
    pieces: dict[int, str]
    added: frozenset[int]
    byte_level: bool

    @cached_property
    def spelled(self) -> dict[int, str]:
        """What each piece but the added tokens stands for: without the marks of word begin and end, bytes as text."""
        model = self.content["model"]
        prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        spelled = {}
        for index, piece in self.pieces.items():
            if index not in self.added:
                plain = piece.removeprefix(prefix).removesuffix(suffix) or piece
                spelled[index] = _from_bytes(plain) if self.byte_level else plain
        return spelled

    @property
    def unknown(self) -> int | None:
        """The id for what no piece spells; None where bytes spell everything."""
        model = self.content["model"]
        if self.kind == "Unigram":
            return None if model["unk_id"] is None else int(model["unk_id"])
        if self.byte_level or model.get("unk_token") is None:
            return None
        return next((index for index, piece in self.pieces.items() if piece == model["unk_token"]), None)

    @property
    def spells_bytes(self) -> bool:
        """Whether a character without a piece is spelled in bytes and never unknown."""
        return self.byte_level or bool(self.content["model"].get("byte_fallback"))

    def required(self) -> set[int]:
        """Returns the ids that stay whatever the texts: special and added tokens, bytes, the lowest Unigram score."""
        ids = set(self.added) | set(_processor_ids(self.content["post_processor"]))
        ids |= {index for index, piece in self.pieces.items() if _BYTE.fullmatch(piece)}
        if self.unknown is not None:
            ids.add(self.unknown)
        if self.byte_level:
            suffix = self.content["model"].get("end_of_word_suffix") or ""
            bases = {character + end for character in _BYTE_LETTERS.values() for end in ("", suffix)}
            ids |= {index for index, piece in self.pieces.items() if piece in bases}
        if self.kind == "Unigram":
            scores = [score for _piece, score in self.content["model"]["vocab"]]
            ids.add(scores.index(min(scores)))
        return ids

    def written_in(self, characters: Collection[str]) -> set[int]:
        """Returns the ids of the pieces that hold no other character."""
        allowed = set(characters)
        return {index for index, plain in self.spelled.items() if allowed.issuperset(plain)}

    def single(self, characters: Collection[str]) -> set[int]:
        """Returns the ids of the pieces of one of these characters, alone or at the begin or end of a word."""
        allowed = set(characters)
        return {index for index, plain in self.spelled.items() if (plain.lstrip("▁ ") or plain[:1]) in allowed}

    def characters(self, scripts: Iterable[str]) -> set[str]:
        """Returns the characters of the pieces that belong to scripts of Unicode (four letters, `Latn`)."""
        return in_scripts(self._alphabet, scripts)

    @cached_property
    def _alphabet(self) -> set[str]:
        return {character for plain in self.spelled.values() for character in plain}

    def with_parts(self, ids: Collection[int]) -> set[int]:
        """Returns the ids and, for BPE, those of every piece on the way to them."""
        if self.kind != "BPE":
            return set(ids)
        model = self.content["model"]
        ranks = {pair: rank for rank, pair in enumerate(self.merges())}
        numbers = {piece: index for index, piece in self.pieces.items()}
        found = set(ids)
        for index in ids:
            if index not in self.added and index in self.pieces:
                symbols = _symbols(self.pieces[index], model.get("end_of_word_suffix") or "")
                for part in _on_the_way(symbols, ranks):
                    if part in numbers:
                        found.add(numbers[part])
        return found

    def dead_ends(self, texts: Iterable[str], tokenizer: Tokenizer) -> set[int]:
        """Returns the ids of the pieces that WordPiece takes before it gives up on a word of `texts`.

        Args:
            texts: those in which a word became unknown, cleaned.
            tokenizer: splits them into words.
        """
        if self.kind != "WordPiece":
            return set()
        model = self.content["model"]
        vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
        found = set()
        for text in texts:
            normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
            for word, _span in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
                if len(word) <= model["max_input_chars_per_word"]:
                    found |= {vocabulary[piece] for piece in _longest_first(word, vocabulary, prefix)}
        return found

    def merges(self) -> Iterator[tuple[str, str]]:
        """Yields the pairs that BPE joins, the first to be joined first."""
        for merge in self.content["model"]["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            yield left, right


def read_vocabulary(tokenizer: TextTokenizer) -> Vocabulary:
    """Returns the vocabulary of a tokenizer.

    Raises:
        BabelclipError: it is of none of `KINDS`.
    """
    content = json.loads(tokenizer.to_json())
    model = content["model"]
    kind = model.get("type")
    oddity = " with dropout" if model.get("dropout") else ""
    if kind == "BPE" and model.get("continuing_subword_prefix"):
        oddity = f" that marks the inside of words with {model['continuing_subword_prefix']!r}"
    if kind not in KINDS or oddity:
        raise BabelclipError(
            f"The tokenizer is a {kind} model{oddity}, and which pieces can go is known for {', '.join(KINDS)} in "
            "their usual forms. Keep this model whole."
        )
    listed = enumerate(piece for piece, _score in model["vocab"]) if kind == "Unigram" else _turned(model["vocab"])
    pieces = dict(listed) | {token["id"]: token["content"] for token in content["added_tokens"]}
    return Vocabulary(
        content=content,
        kind=kind,
        pieces=pieces,
        added=frozenset(token["id"] for token in content["added_tokens"]),
        byte_level=kind == "BPE" and "ByteLevel" in _types([content["pre_tokenizer"], content["normalizer"]]),
    )


def without(vocabulary: Vocabulary, numbers: Mapping[int, int]) -> Tokenizer:
    """Returns the tokenizer that has only some pieces, under new ids.

    Args:
        vocabulary: of the whole tokenizer.
        numbers: the new id of each old one that stays; consecutive from 0, in the order of the old ids.

    Raises:
        BabelclipError: the pieces that stay make no tokenizer.
    """
    model = dict(vocabulary.content["model"])
    # The vocabulary is large and only read; what is changed in place is copied.
    content = vocabulary.content | {
        "model": model,
        "added_tokens": [dict(token) for token in vocabulary.content["added_tokens"]],
        "post_processor": copy.deepcopy(vocabulary.content["post_processor"]),
        "padding": None,
    }
    if vocabulary.kind == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in numbers]
        model["unk_id"] = None if model["unk_id"] is None else numbers[model["unk_id"]]
    else:
        model["vocab"] = {piece: numbers[index] for piece, index in model["vocab"].items() if index in numbers}
    if vocabulary.kind == "BPE":
        kept = model["vocab"]
        model["merges"] = [
            [left, right]
            for left, right in vocabulary.merges()
            if left in kept and right in kept and left + right in kept
        ]
    for token in content["added_tokens"]:
        token["id"] = numbers[token["id"]]
    _renumber_processor(content["post_processor"], numbers)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    # A piece listed twice counts by its last id.
    for piece, index in {piece: index for index, piece in vocabulary.pieces.items()}.items():
        if index in numbers and tokenizer.token_to_id(piece) != numbers[index]:
            raise BabelclipError(
                f"The piece {piece!r} would get the id {tokenizer.token_to_id(piece)} in place of {numbers[index]}: "
                "the ids of this tokenizer's added tokens leave gaps. Keep this model whole."
            )
    return tokenizer


def _turned(vocabulary: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    return ((index, piece) for piece, index in vocabulary.items())


def _symbols(piece: str, suffix: str) -> list[str]:
    """Returns what BPE starts from: the characters, the last one with the mark of the word's end."""
    if suffix and piece.endswith(suffix) and piece != suffix:
        plain = piece.removesuffix(suffix)
        return [*plain[:-1], plain[-1] + suffix]
    return list(piece)


def _on_the_way(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """Returns every symbol that occurs while BPE joins `symbols`, the first ones included."""
    symbols, seen = list(symbols), set(symbols)
    while len(symbols) > 1:
        ranked = [(ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not ranked:
            break
        at = min(ranked)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        seen.add(symbols[at])
    return seen


def _longest_first(word: str, vocabulary: Collection[str], prefix: str) -> list[str]:
    """Returns the pieces that WordPiece takes from the left, up to the end or where none fits."""
    taken, start = [], 0
    while start < len(word):
        mark = prefix if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary), None)
        if end is None:
            break
        taken.append(mark + word[start:end])
        start = end
    return taken


def _types(parts: Iterable[Any]) -> set[str]:
    """Returns the types of steps of a tokenizer, those inside sequences included."""
    found: set[str] = set()
    for part in parts:
        if part is not None:
            found.add(part["type"])
            found |= _types(part.get("pretokenizers") or part.get("normalizers") or ())
    return found


def _processor_ids(processor: Any) -> Iterator[int]:
    """Yields the ids that a post-processor adds to texts."""
    if processor is None:
        return
    for part in processor.get("processors") or ():
        yield from _processor_ids(part)
    for end in ("sep", "cls"):
        if end in processor:
            yield processor[end][1]
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            yield from token["ids"]


def _renumber_processor(processor: Any, numbers: Mapping[int, int]) -> None:
    if processor is None:
        return
    for part in processor.get("processors") or ():
        _renumber_processor(part, numbers)
    for end in ("sep", "cls"):
        if end in processor:
            processor[end][1] = numbers[processor[end][1]]
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [numbers[index] for index in token["ids"]]


def _byte_letters() -> dict[int, str]:
    """Returns the letter that byte-level BPE writes for each byte: printable Latin-1 as it is, the rest from U+0100."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


_BYTE_LETTERS = _byte_letters()
_LETTER_BYTES = {letter: byte for byte, letter in _BYTE_LETTERS.items()}


def _from_bytes(letters: Sequence[str]) -> str:
    """Returns the whole characters of a byte-level piece; parts of characters at its ends are left out."""
    if any(letter not in _LETTER_BYTES for letter in letters):
        return str(letters)
    return bytes(_LETTER_BYTES[letter] for letter in letters).decode("utf-8", errors="ignore")
