"""Embeds by ranks and by a driver that are killed (SIGKILL) at chosen moments; prints JSON: is the store the same?

    python -m tests.cluster.killed_embed_job FOLDER

Run by test_embed_job.py. The processes are forked from this one, which has torch imported but has computed nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoConfig, AutoModel  # noqa: F401

import babelclip
from babelclip.cluster import embed_captions, embed_commit
from babelclip.cluster.embed import embed_on
from babelclip.cluster.job import Ledger, Means
from babelclip.data.captions import Captions, write_captions
from babelclip.data.embed import embed_file
from tests.conftest import make_clip
from tests.data.killed_embed import content
from tests.train.killed_run import ended, forked

CAPTIONS, DISTINCT, SHARD, RANKS = 360, 300, 20, 4


def embed(folder: Path, name: str, launcher: str) -> None:
    """Embeds, noting what it said and how many texts the model was given."""
    torch.set_num_threads(1)
    encode = embed_captions.encode_new

    def noted(tower: object, texts: list[str], *given: object, **settings: object) -> object:
        with (folder / f"{name}.encoded").open("a") as file:
            file.write("x" * len(texts))
        time.sleep(0.01)
        return encode(tower, texts, *given, **settings)

    embed_captions.encode_new = noted
    said: list[str] = []
    means = Means(say=said.append)
    done = embed_on(
        launcher, folder / "captions.jsonl", folder / name, model=str(folder / "model"), means=means, shard_rows=SHARD
    )
    with (folder / f"{name}.said").open("a") as file:
        file.write(json.dumps([os.environ.get("RANK", ""), done is not None, said]) + "\n")


def rank(folder: Path, name: str, number: int) -> int:
    """Starts a rank and returns its process."""

    def work() -> None:
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(RANKS)}
        embed(folder, name, "rank")

    return forked(work)


def dies_in_commit(folder: Path, name: str, place: str, at: int) -> int:
    """Embeds with a driver that kills itself in its commit number `at`; returns how it ended."""

    def work() -> None:
        module: object = embed_commit.layout if place != "drop_files" else Ledger
        function = getattr(module, place)
        calls = []

        def deadly(*given: object) -> object:
            calls.append(given)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given)

        setattr(module, place, deadly)
        embed(folder, name, "local")

    return ended(forked(work))


def encoded(folder: Path, name: str) -> int:
    return len((folder / f"{name}.encoded").read_text())


def done(folder: Path, name: str) -> int:
    return len(list((folder / f"{name}.job" / "done").glob("*.json")))


def ranks_at_once(folder: Path, whole: dict[str, bytes]) -> dict[str, object]:
    children = [rank(folder, "ranks", number) for number in range(RANKS)]
    ends = [ended(child) for child in children]
    said = [json.loads(line) for line in (folder / "ranks.said").read_text().splitlines()]
    late = ended(rank(folder, "ranks", 2))
    return {
        "ends": [*ends, late],
        "equal": content(folder / "ranks") == whole,
        "encoded": encoded(folder, "ranks"),
        "commits": sum(committed for _, committed, _ in said),
        "said": [words for _, _, words in said],
        "left": sorted(path.name for path in (folder / "ranks.job").iterdir() if path.name != ".lock"),
    }


def a_rank_dies(folder: Path, whole: dict[str, bytes]) -> dict[str, object]:
    children = [rank(folder, "dies", number) for number in range(RANKS)]
    while done(folder, "dies") < 3:  # of the five of each
        time.sleep(0.002)
    os.kill(children[2], signal.SIGKILL)
    ends = [ended(child) for child in children]
    before = (folder / "dies" / "manifest.json").read_text()
    again = ended(rank(folder, "dies", 2))
    return {
        "ends": [*ends, again],
        "rows_before": json.loads(before)["count"],
        "equal": content(folder / "dies") == whole,
        "encoded": encoded(folder, "dies"),
    }


def the_committer_dies(folder: Path, whole: dict[str, bytes]) -> list[dict[str, object]]:
    found = []
    for number, (place, at) in enumerate([("write_manifest", 3), ("remove_unnamed_files", 3), ("drop_files", 12)]):
        name = f"committer{number}"
        end = dies_in_commit(folder, name, place, at)
        rows = json.loads((folder / name / "manifest.json").read_text())["count"]
        again = ended(forked(lambda name=name: embed(folder, name, "local")))
        equal = content(folder / name) == whole
        found.append(
            {"at": place, "ends": [end, again], "rows": rows, "equal": equal, "encoded": encoded(folder, name)}
        )
    return found


def kills_at_random(folder: Path, whole: dict[str, bytes]) -> dict[str, object]:
    kills = []
    for wanted in (0, 4, 9, 15):
        child = forked(lambda: embed(folder, "random", "local"))
        start = time.monotonic()
        while done(folder, "random") < wanted and time.monotonic() - start < 20:
            time.sleep(0.002)
        time.sleep(0.003 * (wanted % 5))
        os.kill(child, signal.SIGKILL)
        ended(child)
        kills.append(done(folder, "random"))
    last = ended(forked(lambda: embed(folder, "random", "local")))
    left = (folder / "random.job").exists()
    return {"kills": kills, "last": last, "equal": content(folder / "random") == whole, "left": left}


def main(folder: Path) -> None:
    texts = [f"the red dog {row} " + "two " * (row % 7) for row in (n * 7 % DISTINCT for n in range(CAPTIONS))]
    captions = Captions.from_columns(text=texts, lang="en", id=[f"id-{row}" for row in range(CAPTIONS)])
    write_captions(captions, folder / "captions.jsonl")
    alone: Callable[[], object] = lambda: embed_file(  # noqa: E731
        babelclip.load(str(folder / "model")), folder / "captions.jsonl", folder / "whole", shard_rows=SHARD
    )
    assert ended(forked(lambda: make_clip().save(folder / "model"))) == 0, "no model"
    assert ended(forked(alone)) == 0, "the plain run failed"
    whole = content(folder / "whole")
    found = {
        "files": len(whole),
        "ranks": ranks_at_once(folder, whole),
        "dead_rank": a_rank_dies(folder, whole),
        "dead_committer": the_committer_dies(folder, whole),
        "random": kills_at_random(folder, whole),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
