"""Embeds a file undisturbed, and killed (SIGKILL) at random moments and resumed; prints JSON: are the stores equal?

    python -m tests.data.killed_embed FOLDER KILLS [pictures]

Run by test_embed.py and test_embed_images.py. The runs are forked from this process, which has torch imported but has
computed nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoConfig, AutoModel  # noqa: F401

from babelclip.data import embed, embed_images
from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import open_captions
from tests.conftest import draw_shape, make_clip
from tests.train.killed_run import ended, forked

CAPTIONS, SHARD, PART = 3000, 100, 70
PICTURES, BLOCK = 300, 20


def run(folder: Path, name: str) -> None:
    """Embeds, and notes how many texts the model was given."""
    torch.set_num_threads(1)
    embed.SHARD_ROWS = SHARD
    clip = make_clip()
    encode = clip.text.encode

    def noted(texts: list[str], *given: object, **settings: object) -> object:
        with (folder / f"{name}.encoded").open("a") as file:
            file.write("x" * len(texts))
        return encode(texts, *given, **settings)

    clip.text.encode = noted
    embed.embed_captions(clip, open_captions(folder / "captions.jsonl", rows=PART), folder / name)


def run_pictures(folder: Path, name: str) -> None:
    """Embeds pictures, some of which cannot be read."""
    torch.set_num_threads(1)
    embed_images.BLOCK = BLOCK
    embed_images.embed_pictures(make_clip(), folder / "pictures", folder / name)


def draw_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(PICTURES):
        path = folder / f"{number:04d}.png"
        draw_shape(("red", "green", "blue")[number % 3], "circle", size=20 + number % 50).save(path)
        if number % 11 == 5:
            path.write_bytes(path.read_bytes()[:40])


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


def kill_pictures(folder: Path, kills: int) -> None:
    draw_pictures(folder / "pictures")
    assert ended(forked(lambda: run_pictures(folder, "whole"))) == 0, "the undisturbed run failed"
    at = killed(lambda: run_pictures(folder, "cut"), folder / "cut", rows_there(folder / "whole"), kills)
    assert ended(forked(lambda: run_pictures(folder, "cut"))) == 0, "the last run failed"
    same = content(folder / "whole") == content(folder / "cut")
    sys.stdout.write(json.dumps({"pictures": PICTURES, "kills": len(at), "rows_at_kills": at, "equal": same}) + "\n")


def killed(work: Callable[[], None], store: Path, rows: int, kills: int) -> list[int]:
    """Starts `work` and kills it, `kills` times, as the store grows to `rows`; returns the rows at the kills."""
    at = []
    for number in range(kills):
        child = forked(work)
        wanted = rows * (number + random.random() * 0.9) / kills
        while rows_there(store) < wanted:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            break  # it was over before
        at.append(rows_there(store))
    return at


def main(folder: Path, kills: int) -> None:
    texts = [f"the red dog {row} " + "two " * (row % 7) for row in (n * 7 % 2500 for n in range(CAPTIONS))]
    captions = Captions.from_columns(text=texts, lang="en", id=[f"id-{row}" for row in range(CAPTIONS)])
    write_captions(captions, folder / "captions.jsonl")
    assert ended(forked(lambda: run(folder, "whole"))) == 0, "the undisturbed run failed"
    at = killed(lambda: run(folder, "cut"), folder / "cut", CAPTIONS, kills)
    assert ended(forked(lambda: run(folder, "cut"))) == 0, "the last run failed"
    same = content(folder / "whole") == content(folder / "cut")
    encoded = len((folder / "cut.encoded").read_text())
    found = {"captions": CAPTIONS, "kills": len(at), "rows_at_kills": at, "encoded": encoded, "equal": same}
    sys.stdout.write(json.dumps({**found, "lost_at_most": SHARD}) + "\n")


if __name__ == "__main__":
    what = kill_pictures if sys.argv[3:] == ["pictures"] else main
    what(Path(sys.argv[1]), int(sys.argv[2]))
