"""Indexes pictures undisturbed, and killed (SIGKILL) at random moments; prints JSON: are the collections equal?

    python -m tests.search.killed_index FOLDER KILLS PICTURES

Run by test_index_kill.py, and at full size by benchmarks/index_kill.py. Each run is forked from this process, which has
torch imported but has computed nothing, and never opens a collection itself while runs are to come.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers.models.clip.modeling_clip  # noqa: F401

from tests.conftest import draw_shape, make_clip
from tests.train.killed_run import ended, forked

COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle")
BLOCK = 32


def draw_pictures(folder: Path, count: int) -> None:
    """Half of them in folders with captions, half in tars; some equal, one in 50 broken."""
    random.seed(0)
    tars = []
    for number in range(count):
        place = folder / f"{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        size = 24 + number % 60 if number % 10 else 24  # every tenth is the same file as others
        picture = draw_shape(COLOURS[number % 4], SHAPES[number % 3], size)
        path = place / f"{number:05d}.png"
        picture.save(path)
        if number % 50 == 7:
            path.write_bytes(path.read_bytes()[:60])
        if number % 5 == 0:
            path.with_suffix(".txt").write_text(f"a {COLOURS[number % 4]} {SHAPES[number % 3]} {number}\n")
        if number % 2:
            tars.append(path)
    for part in range(0, len(tars), 200):
        with tarfile.open(folder / f"{part // 200:05d}.tar", "w") as tar:
            for path in tars[part : part + 200]:
                for member in (path, path.with_suffix(".txt")):
                    if member.exists():
                        tar.add(member, member.name)
                        member.unlink()


def run(folder: Path, name: str) -> None:
    """Indexes, and notes every picture that is encoded, and every id once its row is durable."""
    from babelclip.search import index, index_write, near_duplicates

    torch.set_num_threads(1)
    # The vectors of a random model lie close together; groups shall be many.
    near_duplicates.group.__kwdefaults__["least"] = 0.9999995
    log = (folder / f"{name}.log").open("a", encoding="utf-8")
    take, upsert = index_write.read_picture, index_write.Writer._upsert

    def noted_read(preprocess: Any, picture: Any) -> Any:
        log.write(f"encoded {Path(str(picture)).name.rpartition('::')[2]}\n")
        log.flush()
        return take(preprocess, picture)

    def noted_upsert(self: Any, rows: Any, encoded: bool) -> None:
        upsert(self, rows, encoded)
        names = (Path(path).name.rpartition("::")[2] for path in rows["path"].to_pylist())
        log.write("".join(f"durable {name}\n" for name in names))
        log.flush()

    index_write.read_picture, index_write.Writer._upsert = noted_read, noted_upsert  # type: ignore[assignment]
    index.index_pictures(make_clip(), [folder / "pictures"], folder / name, block=BLOCK)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(folder: Path, name: str, kills: int, total: int) -> list[int]:
    """Starts runs and kills each; returns the lines of the log at the kills. The last ones come after all rows."""
    at = []
    for number in range(kills):
        child = forked(lambda: run(folder, name))
        wanted = int(total * (number + random.random()) / (kills - 1)) if kills > 1 else total // 2
        log, over = folder / f"{name}.log", False
        while lines(log) < min(wanted, total - 1) and not over:
            over = os.waitpid(child, os.WNOHANG)[0] != 0
            time.sleep(0.001)
        if over:
            break
        time.sleep(random.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        ended(child)
        at.append(lines(log))
    return at


def repeated(log: Path) -> list[str]:
    """The pictures that were encoded again although their row was durable."""
    durable: set[str] = set()
    again = []
    for line in log.read_text(encoding="utf-8").splitlines():
        word, _, name = line.partition(" ")
        if word == "durable":
            durable.add(name)
        elif name in durable:
            again.append(name)
    return again


def rows_of(path: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    from babelclip.search.collection import open_collection
    from babelclip.search.columns import vectors_of

    collection = open_collection(path)
    parts = list(collection.scan(columns=list(collection.columns), with_vectors=True))
    rows = [row for part in parts for row in part.drop_columns(["vector"]).to_pylist()]
    vectors = np.concatenate([vectors_of(part["vector"]) for part in parts])
    order = sorted(range(len(rows)), key=lambda place: rows[place]["id"])
    return [rows[place] for place in order], vectors[order]


def main(folder: Path, kills: int, pictures: int) -> None:
    seed = int(os.environ.get("BABELCLIP_SEED", "0"))
    draw_pictures(folder / "pictures", pictures)
    start = time.perf_counter()
    assert ended(forked(lambda: run(folder, "whole.lance"))) == 0, "the undisturbed run failed"
    seconds = time.perf_counter() - start
    random.seed(seed)
    at = killed(folder, "cut.lance", kills, lines(folder / "whole.lance.log"))
    assert ended(forked(lambda: run(folder, "cut.lance"))) == 0, "the last run failed"
    (whole, vectors), (cut, others) = rows_of(folder / "whole.lance"), rows_of(folder / "cut.lance")
    log = (folder / "cut.lance.log").read_text(encoding="utf-8").splitlines()
    durable = {line.partition(" ")[2] for line in log if line.startswith("durable ")}
    names = {Path(row["path"]).name.rpartition("::")[2] for row in cut}
    found = {
        "pictures": pictures,
        "rows": len(whole),
        "kills": len(at),
        "log_lines_at_kills": at,
        "equal": whole == cut,
        "largest_difference_of_vectors": float(np.abs(vectors - others).max()) if len(whole) == len(cut) else None,
        "groups": len({row["group"] for row in whole if row["group"]}),
        "acknowledged_and_lost": len(durable - names),
        "acknowledged_and_encoded_again": len(repeated(folder / "cut.lance.log")),
        "encoded_in_all": sum(line.startswith("encoded ") for line in log),
        "encoded_undisturbed": sum(
            line.startswith("encoded ") for line in (folder / "whole.lance.log").read_text().splitlines()
        ),
        "seconds_undisturbed": round(seconds, 2),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
