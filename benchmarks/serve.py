"""The service under load: latency by the number of clients, what it adds to the text encoder, and memory over time.

    python benchmarks/serve.py MODEL COLLECTION... [--seconds 10] [--soak 10000] [--fast] [--out results/serve.json]
    python benchmarks/serve.py MODEL COLLECTION --only-soak --soak-minutes 20     memory over time alone
    python benchmarks/serve.py none COLLECTION --queries VECTORS.npy [--fast]     no encoder: vectors are sent

The service runs in one process, as `babelclip serve` starts it. A second process asks it over loopback:
1, 8 and 32 clients, each on a connection of its own, each asking for the next text as soon as it has its answer (k=40,
as the page does). Texts are new ones each time, so each costs the encoder; `known` asks a few again and again, so that
none does. Latency is what the client measures, from the first byte sent to the last byte read.

Outside the encoder is that latency less the seconds for which the text encoder ran between the question and the end of
its own batch (`seconds.encode` of the answer): the batches before it and its own. It is what would remain if the
encoder took no time: HTTP, checks, the wait for a batch to form and for threads and the event loop, the search, the
answer, and the loopback. What encoder and driver take of the same cores meanwhile is in it, and with few cores that is
much of it; the line of known texts at one client says what a request costs where nothing else runs.

The soak sends many requests of all kinds (search, scroll, thumbnails, similar, legacy, refused ones) from 8 clients,
and reads the memory of the service (RSS) on the way. Bars: <= 10 ms (p95) outside the encoder at 8 clients; no growth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CLIENTS = (1, 8, 32)
# Query vectors that are kept. The operator's default of 10,000 fills during the whole soak, at 2 kB each; this one is
# full after a tenth of it, so what grows behind that is no cache.
CACHE = 500
WORDS = Path(__file__).parent / "class_names"
PACKAGES = ("torch", "transformers", "lancedb", "fastapi", "uvicorn")


# The command line, whose model cannot be none.
_SERVICE = """
import sys
from babelclip.search.server.run import run
from babelclip.search.server.settings import Settings
run(Settings.from_json(sys.argv[1]))
"""


def main() -> None:
    """Measures each collection and prints a table, then a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--soak", type=int, default=10_000)
    parser.add_argument("--soak-minutes", type=float, default=0.0, help="a soak of so long instead of so many requests")
    parser.add_argument("--fast", action="store_true", help="serve from a graph in memory")
    parser.add_argument("--queries", default="", help="vectors (Q, D) that are sent where MODEL is none")
    parser.add_argument("--only-soak", action="store_true", help="no latencies")
    parser.add_argument("--add", action="store_true", help="add the cells to those that --out has")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        print(json.dumps(asyncio.run(drive(**json.loads(given.drive)))))
        return
    command = "python benchmarks/serve.py " + " ".join(sys.argv[1:])
    run = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in PACKAGES},
    }
    cells = [cell for place in given.collections for cell in measure(given, place)]
    result = {"runs": [{**run, "cells": cells}]}
    if given.add and given.out.exists():
        result["runs"] = json.loads(given.out.read_text(encoding="utf-8"))["runs"] + result["runs"]
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measure(given: argparse.Namespace, place: str) -> list[dict[str, Any]]:
    """Returns the cells of one collection."""
    cells: list[dict[str, Any]] = []
    process, address = start(given.model, place, given.fast)
    kinds = ("new", "known") if given.model != "none" else (given.queries,)
    try:
        facts = json.load(urllib.request.urlopen(f"{address}/v1/collections"))["collections"][0]
        about = {"collection": Path(place).name, "rows": facts["rows"], "index": facts["index"]}
        ask(address, 1, 3.0, kinds[0])
        for kind in () if given.only_soak else kinds:
            for clients in CLIENTS:
                before, spent = figures(address), cpu_seconds(process.pid)
                cell = ask(address, clients, given.seconds, kind)
                after, spent = figures(address), cpu_seconds(process.pid) - spent
                cell = {**about, "asked": Path(kind).name, "clients": clients, **cell}
                cell |= {f"{stage}_ms": mean(before, after, stage) for stage in ("queue_wait", "encode_text", "search")}
                cell["service_cpu_ms_per_request"] = round(1000 * spent / cell["requests"], 2)
                cells.append(cell)
                show(cell)
        if given.soak or given.soak_minutes:
            cells.append({**about, **soaked(address, process.pid, given.soak, given.soak_minutes)})
            show(cells[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    return cells


def cpu_seconds(pid: int) -> float:
    """Returns what a process has spent of the processors, all of its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(model: str, place: str, fast: bool) -> tuple[subprocess.Popen[str], str]:
    """Returns the service, and where it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"collections": {"c": place}, "models": [] if model == "none" else [model], "port": port, "fast": fast}
    settings |= {"limits": {"per_minute": 0}, "cache": CACHE}
    process = subprocess.Popen([sys.executable, "-c", _SERVICE, json.dumps(settings)], text=True)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 300
    while True:
        try:
            facts = json.load(urllib.request.urlopen(f"{address}/v1/collections", timeout=60))["collections"][0]
            if not fast or facts["index"].startswith("hnsw") or facts["rows"] < 10_000:
                return process, address
            time.sleep(1)
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the service does not start") from None
            time.sleep(0.2)


def ask(address: str, clients: int, seconds: float, kind: str, number: int = 0) -> dict[str, Any]:
    """Returns what a process of its own measures."""
    given = {"address": address, "clients": clients, "seconds": seconds, "kind": kind, "number": number}
    command = [sys.executable, __file__, "", "", "--drive", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


async def drive(address: str, clients: int, seconds: float, kind: str, number: int) -> dict[str, Any]:
    """Asks from so many connections, for so long or so often; returns rates, times (ms) and statuses."""
    host, port = address.removeprefix("http://").split(":")
    words = sorted(
        {word for file in WORDS.glob("*") for word in re.findall(r"[^\W\d_]{3,}", file.read_text(encoding="utf-8"))}
    )
    times: list[float] = []
    outside: list[float] = []
    statuses: dict[int, int] = {}
    thumbnails: list[str] = []
    vectors = np.load(kind, mmap_mode="r") if kind.endswith(".npy") else None
    begin, asked = time.perf_counter(), 0

    async def client(which: int) -> None:
        nonlocal asked
        random = np.random.default_rng([which, time.time_ns() % 2**32])
        reader, writer = await asyncio.open_connection(host, int(port))
        cursor, text = None, ""
        while (asked < number) if number else (time.perf_counter() - begin < seconds):
            asked += 1
            text = (
                " ".join(words[number] for number in random.integers(len(words), size=4))
                if kind != "known"
                else str(words[which])
            )
            term = {"text": text} if vectors is None else {"vector": vectors[asked % len(vectors)].tolist()}
            turn = asked % 10 if kind == "mixed" else 0
            content: dict[str, Any] | None = {"terms": [term], "k": 40}
            path = "/v1/collections/c/search"
            if turn == 1 and cursor:
                content = {"terms": [], "k": 40, "cursor": cursor}
            elif turn == 2:
                content = {"terms": [], "k": 40}
            elif turn in (3, 4, 5) and thumbnails:
                path, content = thumbnails[asked % len(thumbnails)], None
                path = path.replace("/thumbnail", "/similar") if turn == 5 else path
            elif turn == 6:
                content = {"terms": [{"text": "a" * 5000}]}
            elif turn == 7:
                path, content = f"/nothing/{asked}", None
            elif turn == 8:
                path = "/knn-service"
                content = {"text": text, "modality": "image", "num_images": 20, "indice_name": "c"}
            start = time.perf_counter()
            status, body = await request(reader, writer, path, content)
            times.append(time.perf_counter() - start)
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200 and path.endswith("/search"):
                answer = json.loads(body)
                outside.append(times[-1] - answer["seconds"]["encode"])
                cursor = answer["cursor"] if turn == 2 else cursor
                if kind == "mixed" and len(thumbnails) < 400:
                    thumbnails.extend(hit["thumbnail"] for hit in answer["hits"] if hit["thumbnail"])
        writer.close()

    await asyncio.gather(*(client(which) for which in range(clients)))
    spent = time.perf_counter() - begin
    return {
        "requests": len(times),
        "per_second": round(len(times) / spent, 1),
        **{f"p{share}_ms": at(times, share) for share in (50, 95, 99)},
        **{f"outside_encoder_p{share}_ms": at(outside, share) for share in (50, 95, 99)},
        "statuses": {str(status): n for status, n in sorted(statuses.items())},
    }


async def request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, content: dict[str, Any] | None
) -> tuple[int, bytes]:
    """Returns status and body of a request on an open connection; a client as light as can be."""
    body = b"" if content is None else json.dumps(content).encode()
    head = f"{'GET' if content is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{head}{kind}\r\n".encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def at(times: list[float], share: int) -> float:
    """Returns a percentile in milliseconds."""
    return round(float(np.percentile(times, share)) * 1000, 2) if times else 0.0


def figures(address: str) -> dict[str, tuple[float, float]]:
    """Returns stage -> calls and seconds until now."""
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if line.startswith(("babelclip_stage_seconds_count{", "babelclip_stage_seconds_sum{")):
            name, value = line.rsplit(" ", 1)
            found.setdefault(name.split('"')[1], {})[name.partition("{")[0].rpartition("_")[2]] = float(value)
    return {stage: (values["count"], values["sum"]) for stage, values in found.items()}


def mean(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]], stage: str) -> float:
    """Returns the mean milliseconds of a stage between two readings."""
    calls, spent = (
        last - first for last, first in zip(after.get(stage, (0, 0)), before.get(stage, (0, 0)), strict=True)
    )
    return round(1000 * spent / calls, 2) if calls else 0.0


def soaked(address: str, pid: int, number: int, minutes: float) -> dict[str, Any]:
    """Returns the memory of the service after each tenth of many requests, or of many minutes where these are given."""
    resident = []
    statuses: dict[str, int] = {}
    begin = time.perf_counter()
    for _part in range(10):
        told = ask(address, 8, 6.0 * minutes, "mixed", 0 if minutes else number // 10)
        for status, count in told["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        resident.append(round(pages * os.sysconf("SC_PAGESIZE") / 2**20, 1))
    number = sum(statuses.values())
    growth = float(np.polyfit(np.arange(5), resident[5:], 1)[0]) / (number / 10) * 1000
    return {
        "soak": number,
        "minutes": round((time.perf_counter() - begin) / 60, 1),
        "rss_mb": resident,
        "growth_kb_per_request_second_half": round(growth, 3),
        "statuses": statuses,
    }


def show(cell: dict[str, Any]) -> None:
    """Prints a cell as a line."""
    print("  ".join(f"{name}={value}" for name, value in cell.items()), flush=True)


if __name__ == "__main__":
    main()
