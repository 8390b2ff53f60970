"""Small stores for the tests of merge, verify and exchange, and runs of the same work killed again and again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from babelclip.store import EmbeddingStore

FACTS = {"space": "tiny/space", "model": "tiny-teacher", "dim": 8, "dtype": "float16", "normalized": False}


def vectors_of(count: int, dim: int = 8, seed: int = 0, unit: bool = False) -> np.ndarray:
    """Vectors (count, dim) float32 that float16 holds exactly, unless they are of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float16).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors


def write_store(path: Path, ids: list, vectors: np.ndarray | None = None, shard: int = 5, columns=None, **facts):
    """A closed store of the ids, `shard` rows at a time."""
    facts = {**FACTS, **facts}
    if vectors is None:
        vectors = vectors_of(len(ids), facts["dim"])
    with EmbeddingStore.create(path, **facts) as store:
        for start in range(0, len(ids), shard):
            rows = slice(start, start + shard)
            store.append(ids[rows], vectors[rows], {name: values[rows] for name, values in (columns or {}).items()})
    return EmbeddingStore.open(path)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, which holds the number of a process."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def killed_until_done(work: Callable[[], object], size_now: Callable[[], int], whole: int, kills: int = 4) -> int:
    """Runs `work` in forked processes, killed (SIGKILL) at random sizes, and at last undisturbed; returns the kills."""
    chance, done = random.Random(kills), 0
    for number in range(kills):
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        wanted = whole * (number + chance.random() * 0.9) / kills
        ended = False
        while size_now() < wanted and not ended:
            time.sleep(0.0005)
            ended = os.waitpid(child, os.WNOHANG)[0] != 0
        if ended:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
    work()
    return done
