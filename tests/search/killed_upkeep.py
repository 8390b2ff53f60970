"""Kills (SIGKILL) `babelclip collection index, optimize, delete` and writing at random moments; prints JSON: what held?

    python -m tests.search.killed_upkeep FOLDER KILLS ROWS [KIND...]

Run by test_upkeep_kill.py, and at full size by benchmarks/upkeep_kill.py. After each kill another process opens the
collection as any user would and looks: every acknowledged row is there, as it was written last; what was deleted is
found in no way; what was under way is done or not done, and nothing between. At the end the disk is searched for what
was deleted. Runs are forked from this process, which has lancedb imported and never uses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb  # noqa: F401
import numpy as np
import pyarrow as pa

from babelclip.cli import collection as commands
from babelclip.search.collection import ImageSpace, create_collection, open_collection
from babelclip.search.columns import vector_array, vectors_of

KINDS = ("write", "index", "optimize", "delete")
DIM, CHANGED, DELETED, PARTITIONS = 32, 60, 12, 8
# Seconds in which a run is expected to begin its work, on a machine that does other things too.
_PATIENCE = 600
SPACE = ImageSpace("test/space", "test/model", "abc", DIM, "p", "float32", ())


def mark_of(number: int, turn: int) -> bytes:
    """Bytes that only one row has, and only as it was written in one turn."""
    return hashlib.sha256(f"{number} {turn}".encode()).digest() * 3


def vector_of(number: int, turn: int) -> np.ndarray:
    """The vector (DIM,) float32 of a row as it was written in a turn, of length 1."""
    vector = np.random.default_rng((number, turn)).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def caption_of(number: int, turn: int) -> str:
    return f"number {number} as of turn {turn}"


def rows_of(numbers: list[int], turn: int) -> pa.Table:
    """Rows as they are written in a turn."""
    return pa.table(
        {
            "id": [f"row {number}" for number in numbers],
            "vector": vector_array(np.stack([vector_of(number, turn) for number in numbers])),
            "caption": [caption_of(number, turn) for number in numbers],
            "thumbnail": [mark_of(number, turn) for number in numbers],
        }
    )


def forked(work: Callable[[], object]) -> int:
    """Returns the id of a new process that does the work and nothing else."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return child


class Notes:
    """What was begun and what was acknowledged, a line each, in a file that outlives kills."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, word: str, kind: str, turn: int, numbers: list[int]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([word, kind, turn, numbers]) + "\n")

    def size(self) -> int:
        return self.path.stat().st_size

    def all(self, start: int = 0) -> list[tuple[str, str, int, list[int]]]:
        with self.path.open("rb") as file:
            file.seek(start)
            return [tuple(json.loads(line)) for line in file.read().splitlines() if line.endswith(b"]")]

    def expected(self) -> tuple[dict[int, int], set[int], dict[int, int | None]]:
        """Row -> turn of the acknowledged ones; the deleted; and what a kill left open (None: perhaps deleted)."""
        rows: dict[int, int] = {}
        gone: set[int] = set()
        perhaps: dict[int, int | None] = {}
        for word, kind, turn, numbers in self.all():
            if kind in ("write", "delete"):
                change = dict.fromkeys(numbers, turn if kind == "write" else None)
                if word == "begun":
                    perhaps = change  # there is one writer, so only the last one can be open
                elif word == "done":
                    perhaps = {}
                    if kind == "write":
                        rows.update(change)  # type: ignore[arg-type]
                        gone -= set(numbers)
                    else:
                        rows = {number: made for number, made in rows.items() if number not in change}
                        gone |= set(numbers)
        return rows, gone, perhaps


def looked(place: Path, notes: Notes) -> list[str]:
    """What is wrong with the collection, after a kill; settles in the notes what the kill had left open."""
    rows, gone, perhaps = notes.expected()
    collection = open_collection(place)
    found = {}
    for batch in collection.scan(columns=["caption", "thumbnail"], with_vectors=True):
        vectors = vectors_of(batch["vector"])
        for at, row in enumerate(batch.drop_columns(["vector"]).to_pylist()):
            found[int(row["id"].split()[1])] = (row, vectors[at])
    turns = {number: int(row["caption"].split()[-1]) for number, (row, _vector) in found.items()}
    wrong = []
    for number, (row, vector) in found.items():
        turn = turns[number]
        if row["caption"] != caption_of(number, turn) or row["thumbnail"] != mark_of(number, turn):
            wrong.append(f"row {number} is mixed of two turns")
        if np.abs(vector - vector_of(number, turn)).max() > 1e-6:
            wrong.append(f"row {number} has another vector")
    # What was under way: all of it or nothing.
    done = {number: (turns.get(number) == turn) for number, turn in perhaps.items()}
    if len(set(done.values())) > 1:
        wrong.append(f"half of what was under way is done: {sum(done.values())} of {len(done)}")
    elif done and all(done.values()):
        kind = "delete" if None in perhaps.values() else "write"
        notes.say("done", kind, max((turn or 0) for turn in perhaps.values()), list(perhaps))
        rows, gone, _perhaps = notes.expected()
    else:
        notes.say("undone", "write", 0, [])
    wrong += [f"acknowledged row {number} is lost" for number in rows if number not in found]
    wrong += [f"row {number} is of turn {turns[number]}, not {turn}" for number, turn in rows.items()
              if number in turns and turns[number] != turn]  # fmt: skip
    wrong += [f"row {number} came from nowhere" for number in found if number not in rows]
    wrong += questions(collection, rows, gone)
    collection.close()
    return wrong


def questions(collection: Any, rows: dict[int, int], gone: set[int]) -> list[str]:
    """What is wrong with what the collection answers, with its index and without."""
    wrong = [] if collection.count() == len(rows) else [f"{collection.count()} rows are counted, not {len(rows)}"]
    if len(collection.get([f"row {number}" for number in gone])):
        wrong.append("a deleted row is got by its id")
    asked = random.Random(len(rows)).sample(sorted(rows), 40)
    queries = np.stack([vector_of(number, rows[number]) for number in asked])
    for exact in (True, False):
        best = collection.search(queries, 10, exact=exact).to_pylist()
        first = {row["query"]: row["id"] for row in reversed(best)}
        hits = sum(first.get(place) == f"row {number}" for place, number in enumerate(asked))
        if hits < len(asked) * (1.0 if exact else 0.9):
            wrong.append(f"{'exact' if exact else 'indexed'} search finds {hits} of {len(asked)} rows by their vectors")
        if any(int(row["id"].split()[1]) in gone for row in best):
            wrong.append("a deleted row is found")
    return wrong


def begin(place: Path, notes: Notes, rows: int) -> None:
    """Makes the collection, indexed, from several writes."""
    collection = create_collection(place, SPACE)
    for part in np.array_split(np.arange(rows), 4):
        notes.say("begun", "write", 0, part.tolist())
        collection.upsert(rows_of(part.tolist(), 0))
        notes.say("done", "write", 0, part.tolist())
    collection.close()
    commands.index(str(place), "", "ivf_rq", PARTITIONS, 0, 0.9)


def run(place: Path, notes: Notes, kind: str, turn: int) -> None:
    """Looks, then does one kind of work again and again until it is killed."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for fault in looked(place, notes):
        notes.say("wrong", fault, turn, [])
    dice = random.Random(turn)
    while True:
        turn += 1
        rows, gone, _perhaps = notes.expected()
        chosen = dice.sample(sorted(rows), CHANGED - 20) + dice.sample(range(len(rows) + len(gone), 10**6), 20)
        if kind == "optimize":  # there is something to do: small files, and versions to take away
            write(place, notes, turn, chosen[:5])
        numbers = chosen if kind == "write" else dice.sample(sorted(rows), DELETED) if kind == "delete" else []
        if kind == "write":
            write(place, notes, turn, numbers)
            continue
        notes.say("begun", kind, turn, numbers)
        if kind == "index":
            commands.index(str(place), "", "ivf_rq", PARTITIONS, 0, 0.9)
        elif kind == "optimize":
            commands.optimize(str(place), 0.0)
        else:
            commands.delete(str(place), [f"row {number}" for number in numbers], "", True, True)
        notes.say("done", kind, turn, numbers)


def write(place: Path, notes: Notes, turn: int, numbers: list[int]) -> None:
    collection = open_collection(place, write=True)
    notes.say("begun", "write", turn, numbers)
    collection.upsert(rows_of(numbers, turn))
    notes.say("done", "write", turn, numbers)
    collection.close()


def killed(place: Path, notes: Notes, kind: str, number: int) -> str:
    """Starts work and kills it at a random moment of its second piece; returns the kind that was under way."""
    before, start = notes.size(), time.monotonic()
    child = forked(lambda: run(place, notes, kind, 1000 * number))

    def of_kind(word: str) -> list[float]:
        return [entry for entry in notes.all(before) if entry[0] == word and entry[1] == kind]  # type: ignore[misc]

    while not of_kind("begun"):
        assert os.waitpid(child, os.WNOHANG)[0] == 0, f"{kind} failed by itself"
        assert time.monotonic() - start < _PATIENCE, f"{kind} does not begin"
        time.sleep(0.02)
    begun = time.monotonic()
    # How long one piece takes is not known before it has been done once.
    while not of_kind("done"):
        assert os.waitpid(child, os.WNOHANG)[0] == 0, f"{kind} failed by itself"
        if number % 2 and time.monotonic() - begun > random.random():
            break  # every second kill comes in the first piece
        time.sleep(0.02)
    time.sleep(random.random() * (time.monotonic() - begun))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    last = notes.all(before)[-1]
    return last[1] if last[0] == "begun" else "between"


def end(place: Path, notes: Notes) -> None:
    """Looks a last time, removes what is deleted for good, and searches the disk for it."""
    faults = looked(place, notes)
    commands.optimize(str(place), 0.0)
    faults += looked(place, notes)
    rows, _gone, _perhaps = notes.expected()
    disk = b"".join(file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file())
    written = {(number, turn) for word, kind, turn, numbers in notes.all() if kind == "write" for number in numbers}
    live = {(number, turn) for number, turn in rows.items()}
    absent = [pair for pair in live if mark_of(*pair) not in disk]
    left = [pair for pair in written - live if mark_of(*pair) in disk]
    faults += [f"{len(absent)} rows of {len(live)} are not on the disk as they were written"] if absent else []
    faults += [f"{len(left)} deleted or replaced rows are still on the disk"] if left else []
    for fault in faults:
        notes.say("wrong", fault, -1, [])


def main(folder: Path, kills: int, rows: int, kinds: tuple[str, ...]) -> None:
    warnings.simplefilter("ignore")
    random.seed(int(os.environ.get("BABELCLIP_SEED", "0")))
    place, notes = folder / "rows.lance", Notes(folder / "notes")
    assert os.waitpid(forked(lambda: begin(place, notes, rows)), 0)[1] == 0, "the collection was not made"
    within: dict[str, int] = dict.fromkeys((*kinds, "between"), 0)
    number = 0
    for kind in kinds:
        for _ in range(kills):
            number += 1
            within[killed(place, notes, kind, number)] += 1
    assert os.waitpid(forked(lambda: end(place, notes)), 0)[1] == 0, "the last look failed"
    said = notes.all()
    left, gone, _perhaps = notes.expected()
    found = {
        "rows": rows,
        "kills": number,
        "kills_of": {kind: kills for kind in kinds},
        "kills_within": within,
        "acknowledged": {kind: sum(1 for word, own, *_rest in said if (word, own) == ("done", kind)) for kind in KINDS},
        "rows_at_the_end": len(left),
        "rows_deleted": len(gone),
        "wrong": [kind for word, kind, *_rest in said if word == "wrong"],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:]) or KINDS)
