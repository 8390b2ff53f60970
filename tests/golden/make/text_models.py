"""What the generators of text-only checkpoints share: tiny tokenizers in the forms of 2021, visible random weights."""

from __future__ import annotations

import json
from pathlib import Path

from tests.golden.make.common import characters

WORDS = [
    "a",
    "photo",
    "of",
    "dog",
    "dogs",
    "Two",
    "two",
    "två",
    "hundar",
    "snön",
    "in",
    "the",
    "white",
    "собаки",
    "كلب",
]


def save_wordpiece(
    folder: Path, lower: bool = False, strip_accents: bool | None = None, tokenizer_class: str = ""
) -> int:
    """Writes BERT's `vocab.txt` and `tokenizer_config.json`; returns the vocabulary's size.

    With a `tokenizer_class` of transformers, everything that this class saves, tokenizer.json included.
    """
    import transformers

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    pieces += [piece for c in characters() for piece in (c, f"##{c}") if piece not in WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    settings = {"do_lower_case": lower, "model_max_length": 512}
    if strip_accents is not None:
        settings["strip_accents"] = strip_accents
    if tokenizer_class:
        getattr(transformers, tokenizer_class)(vocab_file=str(folder / "vocab.txt"), **settings).save_pretrained(folder)
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return len(pieces)


def save_byte_pairs(folder: Path) -> int:
    """Writes RoBERTa's `vocab.json` and `merges.txt` with a few merges; returns the vocabulary's size."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("d", "o"), ("do", "g"), ("Ġ", "dog"), ("a", "n"), ("h", "u"), ("Ġ", "hu"), ("Ġ", "a")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(left + right for left, right in merges), "<mask>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}\n', encoding="utf-8")
    return len(vocabulary)


def make_visible(module, seed: int) -> None:
    """Draws every weight, biases and LayerNorms too, wide enough that a swapped or forgotten tensor shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "LayerNorm" in name or "layer_norm" in name
            parameter.copy_(1 + 0.2 * noise if norm and name.endswith("weight") else 0.25 * noise)


def versions(*packages: str) -> dict[str, str]:
    """Returns the installed version of each package."""
    from importlib.metadata import version

    return {package: version(package) for package in packages}


def rewrite_config(folder: Path, **changes: object) -> None:
    """Changes keys of `config.json`; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
