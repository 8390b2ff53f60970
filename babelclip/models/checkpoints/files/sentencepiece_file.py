"""Tokenizers from a sentencepiece model file, where a folder has no tokenizer.json: XLM-R's and SigLIP's.

The file is a protocol buffer of a few fields, read here: no sentencepiece, no protobuf. It is not left to transformers
because 5.0 loses the normalisation of XLM-R's file without a word (full-width letters become unknown tokens).

Source of the format: `sentencepiece_model.proto` of sentencepiece 0.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from babelclip.errors import BabelclipError, of_rust

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UNIGRAM = 1
_SPACE = "▁"


@dataclass
class SentencePieceModel:
    """What a tokenizer is built from: pieces with their log-probabilities, and the table that normalises characters."""

    pieces: list[tuple[str, float]] = field(default_factory=list)
    characters: bytes = b""
    kind: int = _UNIGRAM
    unknown: int = 0


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Returns the unigram model in a sentencepiece file.

    Raises:
        BabelclipError: the file is damaged, or holds another kind of model (BPE).
    """
    try:
        model = _parsed(path.read_bytes())
    except (ValueError, IndexError, TypeError, struct.error, OSError) as error:
        raise BabelclipError(
            f"{path} gives no tokenizer: it is not a whole sentencepiece model ({error}). Copy it again from its "
            "origin, or put the model's tokenizer.json beside it."
        ) from error
    if model.kind != _UNIGRAM or not model.pieces or not 0 <= model.unknown < len(model.pieces):
        raise BabelclipError(
            f"{path} gives no tokenizer: it holds {len(model.pieces)} pieces of kind {model.kind}, and only unigram "
            "models (kind 1) are read from this file. Put the model's tokenizer.json beside it."
        )
    return model


def xlmr_tokenizer(path: Path) -> Tokenizer:
    """Returns XLM-R's tokenizer: four special tokens in fairseq's order first, `<s> A </s>`, `<mask>` last.

    Raises:
        BabelclipError: as `read_sentencepiece`.
    """
    model = read_sentencepiece(path)
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*first, *model.pieces[3:], ("<mask>", 0.0)]
    tokenizer = _unigram(pieces, 3, [*_characters(model, path), normalizers.Strip(left=False, right=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([token for token, _score in first] + [AddedToken("<mask>", lstrip=True)])
    return tokenizer


def siglip_tokenizer(path: Path) -> Tokenizer:
    """Returns SigLIP's tokenizer (T5's manner): `A </s>`. The text comes cleaned, see the rule "siglip".

    Raises:
        BabelclipError: as `read_sentencepiece`, or the model has no `</s>`.
    """
    model = read_sentencepiece(path)
    end = next((number for number, (piece, _score) in enumerate(model.pieces) if piece == "</s>"), None)
    if end is None:
        raise BabelclipError(f"{path} gives no tokenizer: it has no piece </s>. Copy it again from its origin.")
    steps = [normalizers.Replace(_SPACE, " "), *_characters(model, path), normalizers.Strip()]
    tokenizer = _unigram(model.pieces, model.unknown, steps)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    special = ("</s>", model.pieces[model.unknown][0])
    tokenizer.add_special_tokens([AddedToken(token, lstrip=True, rstrip=True, normalized=False) for token in special])
    return tokenizer


def _unigram(pieces: list[tuple[str, float]], unknown: int, steps: list[normalizers.Normalizer]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), _SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def _characters(model: SentencePieceModel, path: Path) -> list[normalizers.Normalizer]:
    if not model.characters:
        return []
    try:
        return [normalizers.Precompiled(model.characters)]
    except BaseException as error:  # the Rust side raises a bare Exception, or panics
        if not of_rust(error):
            raise
        raise BabelclipError(
            f"{path} gives no tokenizer: its table of characters is damaged ({error}). Copy it again from its origin."
        ) from error


def _parsed(content: bytes) -> SentencePieceModel:
    model = SentencePieceModel()
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            model.pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
            model.kind = _whole(trainer.get(3, _UNIGRAM))
            model.unknown = _whole(trainer.get(40, 0))
        elif number == 3 and isinstance(value, bytes):
            table = dict(_fields(value)).get(2, b"")
            model.characters = table if isinstance(table, bytes) else b""
    return model


def _piece(content: bytes) -> tuple[str, float]:
    values = dict(_fields(content))
    text, score = values.get(1, b""), values.get(2, 0.0)
    if not isinstance(text, bytes) or not isinstance(score, float):
        raise ValueError("a piece is not text and number")
    return text.decode("utf-8"), score


def _whole(value: int | float | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a setting is no whole number")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yields the field numbers and values of one message of a protocol buffer."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(content, position)
            yield number, value
            continue
        length = {_FIXED32: 4, _FIXED64: 8}.get(wire)
        if wire == _BYTES:
            length, position = _varint(content, position)
        if length is None or position + length > len(content):
            raise ValueError(f"field {number} at byte {position} goes beyond the file or is of an unknown form")
        raw = content[position : position + length]
        position += length
        yield number, struct.unpack("<f", raw)[0] if wire == _FIXED32 else raw


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(content) or shift > 63:
            raise ValueError(f"a number at byte {position} does not end")
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
