"""A tiny tokenizer in the manner of OpenAI's CLIP: the same algorithm over a few merges instead of 48,894.

It is written in each form that published folders have: the text file of merges, gzipped, which the original class
reads; `vocab.json` + `merges.txt`; and everything that transformers' CLIPTokenizer saves.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

WORDS = "a the of two dogs dog photo playing in snow white space hund hundar cafe fine quoted" * 3


def merges() -> list[tuple[str, str]]:
    """The merges that byte pair encoding learns from a few words, best first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    texts = [WORDS, "två hundar i snön " * 3, "две собаки " * 2, "二匹の犬 " * 2]
    trainer = trainers.BpeTrainer(vocab_size=380, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def save_merges(folder: Path) -> Path:
    """Writes `bpe_simple_vocab_16e6.txt.gz`, which the original classes read, and returns its path."""
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges())]
    # No time stamp and no final newline: the original takes every line after the first for a merge.
    path.write_bytes(gzip.compress("\n".join(lines).encode("utf-8"), mtime=0))
    return path


def save_hub_files(folder: Path, encoder: dict[str, int], form: str) -> None:
    """Writes the files of a hub repository: `fast` (tokenizer.json) or `slow` (vocab.json and merges.txt).

    The hub writes the two special tokens as `<|startoftext|>` and `<|endoftext|>`.
    """
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): index for piece, index in encoder.items()}
    if form == "slow":
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges())]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    from transformers import CLIPTokenizer

    CLIPTokenizer(vocab=vocabulary, merges=merges()).save_pretrained(folder)
