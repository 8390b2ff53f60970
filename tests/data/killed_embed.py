"""Embeds a file undisturbed, and killed (SIGKILL) at random moments and resumed; prints JSON: are the stores equal?

    python -m tests.data.killed_embed FOLDER KILLS

Run by test_embed.py. The runs are forked from this process, which has torch imported but has computed nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoConfig, AutoModel  # noqa: F401

from babelclip.data import embed
from babelclip.data.captions import Captions, write_captions
from babelclip.data.parts import iter_captions
from tests.conftest import make_clip
from tests.train.killed_run import ended, forked

CAPTIONS, SHARD, PART = 3000, 100, 70


def run(folder: Path, name: str) -> None:
    """Embeds, and notes how many texts the model was given."""
    torch.set_num_threads(1)
    embed._SHARD = SHARD
    clip = make_clip()
    encode = clip.text.encode

    def noted(texts: list[str], *given: object, **settings: object) -> object:
        with (folder / f"{name}.encoded").open("a") as file:
            file.write("x" * len(texts))
        return encode(texts, *given, **settings)

    clip.text.encode = noted
    embed.embed_captions(clip, iter_captions(folder / "captions.jsonl", rows=PART), folder / name)


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, which holds the number of a process."""
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name != ".lock"
    }


def rows_there(store: Path) -> int:
    manifest = store / "manifest.json"
    return json.loads(manifest.read_text())["count"] if manifest.exists() else 0


def main(folder: Path, kills: int) -> None:
    texts = [f"the red dog {row} " + "two " * (row % 7) for row in range(CAPTIONS)]
    captions = Captions.from_columns(text=texts, lang="en", id=[f"id-{row}" for row in range(CAPTIONS)])
    write_captions(captions, folder / "captions.jsonl")
    assert ended(forked(lambda: run(folder, "whole"))) == 0, "the undisturbed run failed"
    at = []
    for number in range(kills):
        child = forked(lambda: run(folder, "cut"))
        wanted = CAPTIONS * (number + random.random() * 0.9) / kills
        while rows_there(folder / "cut") < wanted:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            break  # it was over before
        at.append(rows_there(folder / "cut"))
    assert ended(forked(lambda: run(folder, "cut"))) == 0, "the last run failed"
    same = content(folder / "whole") == content(folder / "cut")
    encoded = len((folder / "cut.encoded").read_text())
    found = {"captions": CAPTIONS, "kills": len(at), "rows_at_kills": at, "encoded": encoded, "equal": same}
    sys.stdout.write(json.dumps({**found, "lost_at_most": SHARD}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
