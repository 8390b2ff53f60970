"""The rows of `encode.py`: each runs in a process of its own, in its own environment, loads once and then obeys.

    PYTHON benchmarks/encode_rows.py ROW SETTINGS         (run by encode.py)

Commands come as JSON lines on standard input, answers go as JSON lines to what was standard output. A row is a function
from settings to `Opened`; nothing of one row's libraries is imported by another's. `openvino-files` is no row: it
writes what the OpenVINO rows read, so that its memory is not theirs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# What the original, and sentence-transformers unless told otherwise, encode at once.
BATCH = 32
INT8 = "openvino/openvino_model_qint8_quantized.xml"
CALIBRATION = 96  # texts; the peer's own default is 300, which takes minutes longer


@dataclass
class Opened:
    """A loaded row.

    Attributes:
        encode: texts to raw vectors (N, D).
        weights: bytes.
        padded: tokens of every forward pass, padding included, as a list that grows.
        facts: dtype, threads, versions.
        query: the parts of a single query, for rows that time it.
    """

    encode: Callable[[list[str]], np.ndarray]
    weights: int
    padded: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    query: Any = None


def tensors_of(module: Any) -> int:
    """Returns the bytes of a module's weights, each counted once."""
    return sum({t.data_ptr(): t.nbytes for t in (*module.parameters(), *module.buffers())}.values())


def open_mclip(settings: dict[str, Any]) -> Opened:
    """The original M-CLIP forward: batches in the order given, padded to the longest, masked mean, linear.

    Where the package multilingual-clip is installed, its own class computes it.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, XLMRobertaModel

    folder, device = Path(settings["sentence_transformers"]), settings["device"]
    body = XLMRobertaModel.from_pretrained(folder, add_pooling_layer=False).to(device).eval()
    weights = load_file(folder / "2_Dense" / "model.safetensors", device=device)
    linear = torch.nn.Linear(*reversed(weights["linear.weight"].shape), device=device)
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padded: list[int] = []
    _count(body, padded)
    try:
        from multilingual_clip.pt_multilingual_clip import MultilingualCLIP

        model = MultilingualCLIP.__new__(MultilingualCLIP)  # its constructor fetches from the hub
        torch.nn.Module.__init__(model)
        model.transformer, model.LinearTransformation = body, linear
        forward, by = (lambda texts: model.forward(texts, tokenizer)), "its own class"
    except ImportError:
        by = "six lines that equal it"

        def forward(texts: list[str]):  # noqa: ANN202
            tokens = tokenizer(texts, padding=True, return_tensors="pt").to(device)
            states = body(**tokens)[0]
            mask = tokens["attention_mask"]
            mean = (states * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None]
            return linear(mean)

    def encode(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            parts = [forward(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return torch.cat(parts).cpu().numpy()

    return Opened(encode, tensors_of(body) + tensors_of(linear), padded, {"dtype": "float32", "computed by": by})


def open_sentence_transformers(settings: dict[str, Any]) -> Opened:
    """sentence-transformers as it comes, or with another backend or dtype; its own batch size and order."""
    from sentence_transformers import SentenceTransformer

    folder = Path(settings["sentence_transformers"])
    backend, dtype = settings.get("backend", "torch"), settings.get("dtype", "float32")
    more: dict[str, Any] = {}
    if backend == "torch" and dtype != "float32":
        more = {"model_kwargs": {"dtype": dtype}}
    if backend == "openvino":
        more = {"model_kwargs": {"file_name": INT8 if dtype == "int8" else "openvino/openvino_model.xml"}}
    model = SentenceTransformer(str(folder), backend=backend, device=settings["device"], local_files_only=True, **more)
    padded: list[int] = []
    model[0].register_forward_pre_hook(lambda _module, args: padded.append(args[0]["input_ids"].numel()))

    def encode(texts: list[str]) -> np.ndarray:
        return np.asarray(model.encode(texts, show_progress_bar=False))

    weights = tensors_of(model)
    if backend == "openvino":
        weights += (folder / more["model_kwargs"]["file_name"]).with_suffix(".bin").stat().st_size
    return Opened(encode, weights, padded, {"dtype": dtype, "backend": backend})


def write_openvino(settings: dict[str, Any]) -> None:
    """Writes what the OpenVINO backend reads, as sentence-transformers documents it: fp32, and static int8.

    Its `export_static_quantized_openvino_model` calibrates with a data set of the hub; here the texts do.
    """
    import nncf
    import openvino
    from sentence_transformers import SentenceTransformer

    folder = Path(settings["sentence_transformers"])
    model = SentenceTransformer(str(folder), backend="openvino", model_kwargs={"export": True}, local_files_only=True)
    model[0].auto_model.save_pretrained(str(folder))  # its loader puts the files in openvino/
    texts = json.loads(Path(settings["texts"]).read_text(encoding="utf-8"))[-CALIBRATION:]
    core = openvino.Core()
    network = core.read_model(folder / "openvino" / "openvino_model.xml")
    names = {name for place in network.inputs for name in place.get_names()}

    def features(text: str) -> dict[str, np.ndarray]:
        tokens = model.tokenizer([text], return_tensors="np")
        return {name: tokens.get(name, np.zeros_like(tokens["input_ids"])) for name in names}

    data = nncf.Dataset(texts, features)
    rounded = nncf.quantize(network, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))
    openvino.save_model(rounded, folder / INT8, compress_to_fp16=False)


def open_babelclip(settings: dict[str, Any]) -> Opened:
    """Our own: the dtype that the settings ask for, and every default otherwise."""
    import torch

    import babelclip

    clip = babelclip.load(
        settings["mclip"], "text", dtype=settings["dtype"], device=settings["device"], space="benchmark/random"
    )
    padded: list[int] = []
    _count(clip.text.backbone, padded)

    def encode(texts: list[str]) -> np.ndarray:
        return clip.encode_text(texts, normalize=False)

    weights = sum(tensor.nbytes for tensor in clip.text.state_dict().values())
    dtype = str(next(clip.text.backbone.encoder.parameters()).dtype).removeprefix("torch.")
    return Opened(encode, weights, padded, {"dtype": dtype, "threads": torch.get_num_threads()}, query=clip)


def open_matmul(settings: dict[str, Any]) -> Opened:
    """The machine's own rate: products of the model's sizes and of large squares, as torch does them."""
    import torch

    def rates(_texts: list[str]) -> np.ndarray:
        found = []
        for dtype in DTYPES:
            tried = [_rate(torch, dtype, shape, settings["device"]) for shape in settings["shapes"]]
            found.append(max(tried))
        return np.array(found)

    return Opened(rates, 0, facts={"dtypes": DTYPES, "cpu": torch.backends.cpu.get_cpu_capability()})


DTYPES = ("float32", "bfloat16", "int8")


def _rate(torch: Any, dtype: str, shape: tuple[int, int, int], device: str) -> float:
    """Returns GFLOP/s (or 10^9 integer operations) of the middle one of several products; 0 where it does not run."""
    m, k, n = shape
    cuda = device.startswith("cuda")
    try:
        if dtype == "int8":
            a = torch.randint(-127, 127, (m, k), dtype=torch.int8, device=device)
            b, multiply = torch.randint(-127, 127, (n, k), dtype=torch.int8, device=device).t(), torch._int_mm
        else:
            a = torch.randn(m, k, device=device).to(getattr(torch, dtype))
            b, multiply = torch.randn(n, k, device=device).to(getattr(torch, dtype)).t(), torch.matmul
        seconds: list[float] = []
        begun = time.perf_counter()
        with torch.inference_mode():
            while len(seconds) < 5 or time.perf_counter() - begun < 0.05:
                start = time.perf_counter()
                multiply(a, b)
                if cuda:
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
    except RuntimeError:
        return 0.0
    return 2 * m * k * n / float(np.median(seconds)) / 1e9


def _count(module: Any, padded: list[int]) -> None:
    """Notes the tokens of every pass of a transformers model."""

    def note(_module: Any, args: tuple, kwargs: dict) -> None:
        padded.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel())

    module.register_forward_pre_hook(note, with_kwargs=True)


def time_query(clip: Any, text: str, rounds: int) -> dict[str, float]:
    """Returns medians, in milliseconds, of one query and of the bare model on its ids, which alternate.

    `overhead` is what stays when the model does nothing: it depends less on how busy the machine is than a difference.
    """
    import torch

    ids = torch.tensor(clip.text.tokenize([text]), device=next(clip.text.parameters()).device)
    whole, bare, idle = [], [], []

    def timed(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    with torch.inference_mode():
        result = clip.text(ids)
        for _ in range(rounds):
            whole.append(timed(lambda: clip.encode_text(text)))
            bare.append(timed(lambda: clip.text(ids).cpu()))
        clip.text.forward = lambda *_args: result
        idle = [timed(lambda: clip.encode_text(text)) for _ in range(4 * rounds)]
        del clip.text.forward
    return {
        "tokens": ids.shape[1],
        "encode_text": float(np.median(whole)),
        "forward": float(np.median(bare)),
        "ratio": float(np.median(np.array(whole) / np.array(bare))),
        "overhead": float(np.median(idle)),
    }


def peak_bytes() -> int:
    """The most memory that this process has held: VmHWM, because ru_maxrss counts the parent from before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


OPENERS = {
    "mclip": open_mclip,
    "sentence-transformers": open_sentence_transformers,
    "babelclip": open_babelclip,
    "matmul": open_matmul,
}


def versions() -> dict[str, str]:
    """Returns the versions of what this environment has of the libraries that matter."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("torch", "transformers", "tokenizers", "sentence-transformers", "optimum-intel", "openvino", "nncf",
                 "multilingual-clip", "numpy"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def reply(opened: Opened, settings: dict[str, Any], command: dict[str, Any]) -> dict[str, Any]:
    """Carries out one command and returns what it cost."""
    texts = settings["loaded_texts"]
    if command["do"] == "query":
        return time_query(opened.query, texts[command["text"]], command["rounds"])
    opened.padded.clear()
    cpu, start = time.process_time(), time.perf_counter()
    vectors = opened.encode(texts[: command["count"]])
    done = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    if command.get("save"):
        np.save(command["save"], vectors)
    if settings["row"] == "matmul":
        done["rates"] = vectors.tolist()
    return {**done, "padded": sum(opened.padded), "peak": peak_bytes()}


def opening(row: str, settings: dict[str, Any]) -> tuple[Opened | None, dict[str, Any]]:
    """Loads a row; returns it and what it says of itself, or None and why not."""
    settings["row"] = row
    settings["loaded_texts"] = json.loads(Path(settings["texts"]).read_text(encoding="utf-8"))
    try:
        if row == "openvino-files":
            write_openvino(settings)
            return None, {"written": True}
        opened = OPENERS[row](settings)
    except Exception as error:  # the driver says why the row is missing
        return None, {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    about = {"weights": opened.weights, "facts": opened.facts, "versions": versions(), "loaded": peak_bytes()}
    return opened, about


def main() -> None:
    """Serves one row until standard input ends; what libraries print goes to standard error."""
    row, settings = sys.argv[1], json.loads(sys.argv[2])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    opened, about = opening(row, settings)
    answer(about)
    if opened is not None:
        for line in sys.stdin:
            answer(reply(opened, settings, json.loads(line)))


if __name__ == "__main__":
    main()
