"""A tiny tokenizer in the manner of OpenAI's CLIP: the same algorithm over a few merges instead of 48,894.

It is written in each form that published folders have: the text file of merges, gzipped, which the original class
reads; `vocab.json` + `merges.txt`; and everything that transformers' CLIPTokenizer saves.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

WORDS = (
    "a the of two dogs dog photo playing in snow white space hund hundar cafe fine quoted två snön две собаки 二匹の犬"
)
MERGES = 60


def merges() -> list[tuple[str, str]]:
    """The merges that byte pair encoding learns from a few words, best first; ties go by the alphabet."""
    from tokenizers import pre_tokenizers

    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [letters.pre_tokenize_str(word)[0][0] for word in WORDS.split()]
    words = [[*word[:-1], word[-1] + "</w>"] for word in spelled]
    learned: list[tuple[str, str]] = []
    for _ in range(MERGES):
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append(best)
        for word in words:
            for place in range(len(word) - 1, 0, -1):
                if tuple(word[place - 1 : place + 1]) == best:
                    word[place - 1 : place + 1] = ["".join(best)]
    return learned


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
