"""Translates undisturbed, and killed (SIGKILL) at random moments and resumed; prints JSON: are the folders equal?

    python -m tests.translate.killed_translation FOLDER KILLS

Run by test_pipeline.py. The engine notes every text it is given, so a shard that was finished and is translated again
shows up. The runs are forked from this process, so that a kill costs milliseconds and not an import.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from babelclip.data.captions import Captions, write_captions
from babelclip.translate.choices import EngineChoice
from babelclip.translate.pipeline import translate_captions
from tests.translate.fake import open_slow

CAPTIONS, ROWS = 600, 100
SHARDS = 6 * 4


def run(folder: Path, name: str, workers: int) -> None:
    os.environ["FAKE_LOG"] = str(folder / f"{name}.log")
    translate_captions(
        folder / "captions.jsonl",
        folder / name,
        to=["sv", "de", "fr"],
        engine=EngineChoice("fake", opener=open_slow),
        rows=ROWS,
        batch_size=4,
        devices=["cpu"] * workers,
    )


def forked(folder: Path, name: str, workers: int) -> int:
    """Returns the id of a new process that translates and does nothing else."""
    child = os.fork()
    if child == 0:
        try:
            run(folder, name, workers)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    return os.waitpid(child, 0)[1]


def content(out: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(out)): f.read_bytes()
        for f in sorted(out.rglob("*"))
        if f.is_file() and f.name not in (".lock", "timings.jsonl")
    }


def finished(out: Path) -> set[tuple[str, str]]:
    return {(path.parent.name, path.stem) for path in out.glob("shards/*/[0-9]*.json")}


def main(folder: Path, kills: int) -> None:
    texts = [f"the red dog {row} " + "runs " * (row % 7) + "bad bad bad" * (row % 50 == 0) for row in range(CAPTIONS)]
    captions = Captions.from_columns(text=texts, lang="en", id=[f"id-{row}" for row in range(CAPTIONS)])
    write_captions(captions, folder / "captions.jsonl")
    assert ended(forked(folder, "whole", 1)) == 0, "the undisturbed run failed"
    cut, log = folder / "cut", folder / "cut.log"
    at, repeated = [], 0
    for number in range(kills):
        done, asked = finished(cut), log.stat().st_size if log.exists() else 0
        workers = 2 if number % 3 == 1 else 1
        child = forked(folder, "cut", workers)
        wanted = SHARDS * (number + random.random() * 0.8) / kills
        while len(finished(cut)) < wanted:
            time.sleep(0.001)
        time.sleep(random.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        over = ended(child) == 0
        time.sleep(0.1)  # workers end themselves when they have lost their parent
        repeated += again(folder, done, log, asked)
        if over:
            break
        at.append(len(finished(cut)))
    done, asked = finished(cut), log.stat().st_size
    assert ended(forked(folder, "cut", 1)) == 0, "the last run failed"
    repeated += again(folder, done, log, asked)
    found = {"kills": len(at), "shards_at_kills": at, "shards": SHARDS, "repeated_shards": repeated}
    sys.stdout.write(json.dumps({**found, "equal": content(cut) == content(folder / "whole")}) + "\n")


def again(folder: Path, done: set[tuple[str, str]], log: Path, start: int) -> int:
    """Number of finished shards of which the engine was given a text after `start` of its log."""
    if not log.exists() or not done:
        return 0
    with log.open("rb") as file:
        file.seek(start)
        asked = {tuple(line.split("\t", 1)) for line in file.read().decode().splitlines()}
    import pyarrow.parquet as pq

    shards = set()
    for lang, block in done:
        path = folder / "cut" / "translations" / lang / f"{block}.parquet"
        sources = pq.read_table(folder / "cut" / "sources" / f"{block}.parquet").to_pydict()
        texts = dict(zip(sources["id"], sources["text"], strict=True))
        if any((lang, texts[name]) in asked for name in pq.read_table(path)["source_id"].to_pylist()):
            shards.add((lang, block))
    return len(shards)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
