"""The service under load: latency by the number of clients, what it adds to the text encoder, and memory over time.

    python benchmarks/serve.py MODEL COLLECTION... [--seconds 10] [--soak 10000] [--out results/serve.json]

The service is started by the command line, as a person would, in one process. A second process asks it over loopback:
1, 8 and 32 clients, each on a connection of its own, each asking for the next text as soon as it has its answer (k=40,
as the page does). Texts are new ones each time, so each costs the encoder; `known` asks a few again and again, so that
none does. Latency is what the client measures, its own reading of the answer included.

What the service adds is told by its own figures (/metrics): the time of a request less the part of it in which the text
encoder ran (waiting for its turn counts as encoding: that is the batch before it). With several clients on few cores
the driver takes a share of the same cores, which is said with the figures.

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
WORDS = Path(__file__).parent / "class_names"
PACKAGES = ("torch", "transformers", "lancedb", "fastapi", "uvicorn")


def main() -> None:
    """Measures each collection and prints a table, then a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--soak", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        print(json.dumps(asyncio.run(drive(**json.loads(given.drive)))))
        return
    cells = [cell for place in given.collections for cell in measure(given.model, place, given.seconds, given.soak)]
    result = {
        "cells": cells,
        "command": "python benchmarks/serve.py " + " ".join(sys.argv[1:]),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in PACKAGES},
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measure(model: str, place: str, seconds: float, soak: int) -> list[dict[str, Any]]:
    """Returns the cells of one collection."""
    cells: list[dict[str, Any]] = []
    process, address = start(model, place)
    try:
        rows = json.load(urllib.request.urlopen(f"{address}/v1/collections"))["collections"][0]["rows"]
        ask(address, 1, 3.0, "new")
        for kind in ("new", "known"):
            for clients in CLIENTS:
                before = figures(address)
                cell = ask(address, clients, seconds, kind)
                after = figures(address)
                cell = {"collection": Path(place).name, "rows": rows, "texts": kind, "clients": clients, **cell}
                cell |= {f"{stage}_ms": mean(before, after, stage) for stage in ("queue_wait", "encode_text", "search")}
                cells.append(cell)
                show(cell)
        if soak:
            cells.append(soaked(address, process.pid, soak, place, rows))
            show(cells[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return cells


def start(model: str, place: str) -> tuple[subprocess.Popen[str], str]:
    """Returns the service, and where it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "babelclip.cli.main", "serve", f"c={place}", "--model", model, "--port", str(port)]
    process = subprocess.Popen([*command, "--per-minute", "0"], text=True)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/readyz", timeout=1).close()
            return process, address
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
    beside: list[float] = []
    statuses: dict[int, int] = {}
    thumbnails: list[str] = []
    begin, asked = time.perf_counter(), 0

    async def client(which: int) -> None:
        nonlocal asked
        random = np.random.default_rng([which, time.time_ns() % 2**32])
        reader, writer = await asyncio.open_connection(host, int(port))
        cursor, text = None, ""
        while (asked < number) if number else (time.perf_counter() - begin < seconds):
            asked += 1
            text = " ".join(random.choice(words, 4)) if kind != "known" else str(words[which])
            turn = asked % 10 if kind == "mixed" else 0
            content: dict[str, Any] | None = {"terms": [{"text": text}], "k": 40}
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
                beside.append(times[-1] - answer["seconds"]["encode"])
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
        **{f"beside_encoder_p{share}_ms": at(beside, share) for share in (50, 95)},
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


def soaked(address: str, pid: int, number: int, place: str, rows: int) -> dict[str, Any]:
    """Returns the memory of the service after each tenth of many requests."""
    resident = []
    statuses: dict[str, int] = {}
    for _part in range(10):
        told = ask(address, 8, 0.0, "mixed", number // 10)
        for status, count in told["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        resident.append(round(pages * os.sysconf("SC_PAGESIZE") / 2**20, 1))
    growth = float(np.polyfit(np.arange(5), resident[5:], 1)[0]) / (number / 10) * 1000
    return {
        "collection": Path(place).name,
        "rows": rows,
        "soak": number,
        "rss_mb": resident,
        "growth_kb_per_request_second_half": round(growth, 3),
        "statuses": statuses,
    }


def show(cell: dict[str, Any]) -> None:
    """Prints a cell as a line."""
    print("  ".join(f"{name}={value}" for name, value in cell.items()), flush=True)


if __name__ == "__main__":
    main()
