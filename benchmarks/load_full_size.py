"""Loads models of published size and layout, with random weights, and states exactness, seconds and peak memory.

    python benchmarks/load_full_size.py [--out results/load-full-size.json]

Nothing is downloaded. M-CLIP/XLM-Roberta-Large-Vit-B-16Plus (XLM-R large, 250,002 pieces, Linear to 640; 2.24 GB) is
written as model.safetensors and as pytorch_model.bin, and OpenCLIP's ViT-B-16-plus-240 (0.83 GB) in its own layout.
Each load runs in a fresh process. Its vectors are compared with a reference of a few lines that shares no code with
babelclip: transformers' XLMRobertaModel, masked mean, Linear; and open_clip's forward pass written out in plain torch.

Peak memory is what the process has held at most (VmHWM) since its start: imports included, and the pages of mapped
files that it touched. babelclip maps weights, so they are read when they are used: a second figure is the peak after
every weight was read once. The bar, for the M-CLIP text tower: the load peaks at 1.15 times its weights or less with
imports, and so does the second figure without them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BAR = 1.15
NEEDED = 8e9  # bytes of disk
XLMR = {"vocab": 250002, "width": 1024, "layers": 24, "heads": 16, "mlp": 4096, "positions": 514}
MCLIP_CONFIG = {
    "architectures": ["MultilingualCLIP"],
    "model_type": "M-CLIP",
    "modelBase": "xlm-roberta-large",
    "numDims": 640,
    "transformerDimensions": 1024,
}
OPEN_CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 640,
        "vision_cfg": {"image_size": 240, "layers": 12, "width": 896, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 640, "heads": 10, "layers": 12},
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
MCLIP, MCLIP_BIN, VIT = "mclip-safetensors", "mclip-bin", "vit-b-16-plus-240"
# What is loaded, by whom, which towers.
LOADS = (
    (MCLIP, "babelclip", "text"),
    (MCLIP_BIN, "babelclip", "text"),
    (MCLIP, "plain transformers", "text"),
    (VIT, "babelclip", "image"),
    (VIT, "babelclip", "text"),
    (VIT, "babelclip", "both"),
    (VIT, "plain torch", "both"),
)


# Building the checkpoints


def build(root: Path) -> None:
    """Writes the three folders."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    for name in (MCLIP, MCLIP_BIN, VIT):
        (root / name).mkdir(parents=True)
    tensors = {name: _random(shape) for name, shape in _mclip_shapes().items()}
    save_file(tensors, root / MCLIP / "model.safetensors", metadata={"format": "pt"})
    # Old files carry this buffer too.
    tensors["transformer.embeddings.position_ids"] = torch.arange(XLMR["positions"])[None]
    torch.save(tensors, root / MCLIP_BIN / "pytorch_model.bin")
    del tensors
    _xlmr_tokenizer(root / MCLIP)
    (root / MCLIP / "config.json").write_text(json.dumps(MCLIP_CONFIG))
    for path in root.glob(f"{MCLIP}/*.json"):
        shutil.copy(path, root / MCLIP_BIN)
    vit = {name: _random(shape) for name, shape in _open_clip_shapes().items()}
    vit["logit_scale"] = torch.tensor(4.6052)
    save_file(vit, root / VIT / "open_clip_model.safetensors", metadata={"format": "pt"})
    (root / VIT / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    _byte_pair_tokenizer(root / VIT)


def _random(shape: tuple[int, ...]):  # noqa: ANN202 (torch is imported late)
    """Normal numbers of a width at which 24 layers neither vanish nor explode; norms near 1."""
    import torch

    tensor = torch.empty(shape).normal_(0, 0.03)
    return tensor.add_(1.0) if len(shape) == 1 and shape[0] in (XLMR["width"], 896, 640) else tensor


def _mclip_shapes() -> dict[str, tuple[int, ...]]:
    width, mlp = XLMR["width"], XLMR["mlp"]
    shapes = {
        "embeddings.word_embeddings.weight": (XLMR["vocab"], width),
        "embeddings.position_embeddings.weight": (XLMR["positions"], width),
        "embeddings.token_type_embeddings.weight": (1, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for layer in range(XLMR["layers"]):
        place = f"encoder.layer.{layer}"
        dense = {
            "attention.self.query": (width, width), "attention.self.key": (width, width),
            "attention.self.value": (width, width), "attention.output.dense": (width, width),
            "intermediate.dense": (mlp, width), "output.dense": (width, mlp),
        }  # fmt: skip
        for name, shape in dense.items():
            shapes |= {f"{place}.{name}.weight": shape, f"{place}.{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{place}.{name}.weight": (width,), f"{place}.{name}.bias": (width,)}
    shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    return {**shapes, "LinearTransformation.weight": (640, width), "LinearTransformation.bias": (640,)}


def _open_clip_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {
        "visual.class_embedding": (896,), "visual.positional_embedding": (226, 896),
        "visual.conv1.weight": (896, 3, 16, 16), "visual.proj": (896, 640),
        "positional_embedding": (77, 640), "token_embedding.weight": (49408, 640), "text_projection": (640, 640),
    }  # fmt: skip
    norms = {"visual.ln_pre": 896, "visual.ln_post": 896, "ln_final": 640}
    for prefix, width in (("visual.", 896), ("", 640)):
        for layer in range(12):
            block = f"{prefix}transformer.resblocks.{layer}"
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width), f"{block}.attn.out_proj.bias": (width,),
                f"{block}.mlp.c_fc.weight": (4 * width, width), f"{block}.mlp.c_fc.bias": (4 * width,),
                f"{block}.mlp.c_proj.weight": (width, 4 * width), f"{block}.mlp.c_proj.bias": (width,),
            }  # fmt: skip
    return shapes | {f"{name}.{part}": (width,) for name, width in norms.items() for part in ("weight", "bias")}


def _word(number: int) -> str:
    """The number as letters: every number another word."""
    letters = ""
    while True:
        number, rest = divmod(number, 26)
        letters += chr(97 + rest)
        if number == 0:
            return letters


def _xlmr_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of XLM-R's kind and size, over invented words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{_word(number)}", -8.0 - number / 1e5) for number in range(XLMR["vocab"] - 6 - 26)]
    pieces += [(chr(97 + n), -14.0) for n in range(26)] + [("▁", -14.0), ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {"tokenizer_class": "XLMRobertaTokenizer", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>",
               "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
               "model_max_length": 512}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def _byte_pair_tokenizer(folder: Path) -> None:
    """Writes vocab.json and merges.txt of CLIP's kind and size, over invented merges."""
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in codes] + [chr(256 + n) for n in range(256 - len(codes))]
    ends = [symbol + "</w>" for symbol in symbols]
    merges = [(first, second) for second in ends for first in symbols][: 49408 - 512 - 2]
    vocabulary = [*symbols, *ends, *(first + second for first, second in merges), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(vocabulary)}, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>",
               "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


# What is encoded


def texts() -> list[str]:
    """Invented sentences of 2 to 20 words."""
    rng = np.random.default_rng(1)
    return [" ".join(_word(int(n)) for n in rng.integers(26, 200_000, size=size)) for size in (2, 3, 5, 8, 12, 20)]


def pixels() -> np.ndarray:
    """Returns (2, 3, 240, 240) float32, as preprocessed pictures are."""
    return np.random.default_rng(2).normal(size=(2, 3, 240, 240)).astype(np.float32)


# One load, in a process of its own


def peak_bytes() -> int:
    """The most memory that this process has held: VmHWM, because ru_maxrss counts the parent from before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def child(folder: Path, by: str, towers: str, vectors: Path) -> None:
    """Loads, encodes, writes the vectors and prints what it cost as JSON."""
    import torch
    import transformers.models.clip.modeling_clip
    import transformers.models.xlm_roberta.modeling_xlm_roberta  # noqa: F401

    torch.set_num_threads(os.cpu_count() or 1)
    if by == "babelclip":
        import babelclip.models.checkpoints.native  # noqa: F401 (its imports belong to the baseline)
    baseline = peak_bytes()
    start = time.perf_counter()
    load = {"babelclip": _babelclip, "plain transformers": _plain_mclip, "plain torch": _plain_vit}[by]
    encode, weights = load(folder, towers)
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    for tensor in weights:
        tensor.sum()
    read = peak_bytes()
    with torch.inference_mode():
        arrays = encode()
    np.savez(vectors, **arrays)
    size = sum(tensor.nbytes for tensor in weights)
    report = {"weights": size, "imports": baseline, "peak": peak, "peak_all_read": read, "seconds": seconds}
    sys.stdout.write(json.dumps(report) + "\n")


def _babelclip(folder: Path, towers: str):  # noqa: ANN202
    import torch

    import babelclip

    clip = babelclip.load(folder, towers=towers)
    built = [tower for tower in (clip.text, clip.image) if tower is not None]
    if len(built) != (2 if towers == "both" else 1):
        raise SystemExit(f"towers={towers!r} built {len(built)} towers")

    def encode() -> dict[str, np.ndarray]:
        arrays = {}
        if clip.text is not None:
            arrays["text"] = clip.encode_text(texts(), normalize=False)
        if clip.image is not None:
            arrays["image"] = clip.image(torch.from_numpy(pixels())).numpy()
        return arrays

    return encode, [tensor for tower in built for tensor in tower.state_dict().values()]


def _plain_mclip(folder: Path, _towers: str):  # noqa: ANN202
    """The reference: transformers' class, masked mean, linear. Also what a load costs without any care."""
    import torch
    from safetensors.torch import load_file
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        vocab_size=XLMR["vocab"], hidden_size=XLMR["width"], num_hidden_layers=XLMR["layers"],
        num_attention_heads=XLMR["heads"], intermediate_size=XLMR["mlp"], max_position_embeddings=XLMR["positions"],
        type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    tensors = load_file(folder / "model.safetensors")
    model, linear = XLMRobertaModel(config).eval(), torch.nn.Linear(1024, 640)
    body = {n.removeprefix("transformer."): t for n, t in tensors.items() if n.startswith("transformer.")}
    model.load_state_dict(body)
    linear.load_state_dict({n.split(".")[1]: t for n, t in tensors.items() if n.startswith("LinearTransformation")})
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")

    def encode() -> dict[str, np.ndarray]:
        batch = tokenizer(texts(), padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        states = model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"text": linear(mean).numpy()}

    return encode, [*model.state_dict().values(), *linear.state_dict().values()]


def _plain_vit(folder: Path, _towers: str):  # noqa: ANN202
    """The reference: open_clip's two transformers written out."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "open_clip_model.safetensors")

    def encode() -> dict[str, np.ndarray]:
        return {"text": _open_clip_text(tensors, folder).numpy(), "image": _open_clip_image(tensors).numpy()}

    return encode, list(tensors.values())


def _open_clip_blocks(w, prefix: str, x, heads: int, causal: bool):  # noqa: ANN001, ANN202
    """Pre-norm transformer blocks: x (N, T, W) -> (N, T, W)."""
    from torch.nn import functional as F

    n, t, width = x.shape
    for layer in range(12):
        block = f"{prefix}transformer.resblocks.{layer}"

        def part(name: str, block: str = block):  # noqa: ANN202
            return w[f"{block}.{name}.weight"], w[f"{block}.{name}.bias"]

        h = F.layer_norm(x, (width,), *part("ln_1"))
        qkv = F.linear(h, w[f"{block}.attn.in_proj_weight"], w[f"{block}.attn.in_proj_bias"])
        q, k, v = (p.reshape(n, t, heads, 64).transpose(1, 2) for p in qkv.chunk(3, dim=-1))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(n, t, width)
        x = x + F.linear(h, *part("attn.out_proj"))
        h = F.gelu(F.linear(F.layer_norm(x, (width,), *part("ln_2")), *part("mlp.c_fc")))
        x = x + F.linear(h, *part("mlp.c_proj"))
    return x


def _open_clip_image(w):  # noqa: ANN001, ANN202
    import torch
    from torch.nn import functional as F

    x = F.conv2d(torch.from_numpy(pixels()), w["visual.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1) + w["visual.positional_embedding"]
    x = F.layer_norm(x, (896,), w["visual.ln_pre.weight"], w["visual.ln_pre.bias"])
    x = _open_clip_blocks(w, "visual.", x, heads=14, causal=False)[:, 0]
    return F.layer_norm(x, (896,), w["visual.ln_post.weight"], w["visual.ln_post.bias"]) @ w["visual.proj"]


def _open_clip_text(w, folder: Path):  # noqa: ANN001, ANN202
    """One text at a time: no padding, so no question of masks."""
    import torch
    from torch.nn import functional as F
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    rows = []
    for text in texts():
        ids = torch.tensor(tokenizer(text, truncation=True, max_length=77)["input_ids"])[None]
        x = w["token_embedding.weight"][ids] + w["positional_embedding"][: ids.shape[1]]
        x = _open_clip_blocks(w, "", x, heads=10, causal=True)[:, -1]
        rows.append(F.layer_norm(x, (640,), w["ln_final.weight"], w["ln_final.bias"]) @ w["text_projection"])
    return torch.cat(rows)


# The table


def measure(root: Path) -> list[dict]:
    """Runs every load in a process of its own and compares its vectors with the reference's."""
    rows = []
    for number, (model, by, towers) in enumerate(LOADS):
        vectors = root / f"{number}.npz"
        command = [sys.executable, __file__, "--child", str(root / model), by, towers, str(vectors)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"model": model, "by": by, "towers": towers, **json.loads(done.stdout.splitlines()[-1])})
    references = {MCLIP: 2, MCLIP_BIN: 2, VIT: 6}
    for number, row in enumerate(rows):
        with np.load(root / f"{number}.npz") as ours, np.load(root / f"{references[row['model']]}.npz") as reference:
            row["max_abs"] = max(float(np.abs(ours[name] - reference[name]).max()) for name in ours)
            row["largest_value"] = max(float(np.abs(reference[name]).max()) for name in ours)
        row["peak_per_weights"] = round(row["peak"] / row["weights"], 3)
        row["all_read_per_weights"] = round(row["peak_all_read"] / row["weights"], 3)
        row["all_read_without_imports_per_weights"] = round((row["peak_all_read"] - row["imports"]) / row["weights"], 3)
    return rows


def show(rows: list[dict]) -> None:
    """Prints the table, on stderr: standard output has the JSON."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="loads of published size (MB; peak with imports)")
    words = ("model", "by", "towers")
    for name in (
        *words,
        "weights",
        "imports",
        "peak",
        "/ weights",
        "all read",
        "/ weights",
        "load s",
        "difference",
    ):
        table.add_column(name, justify="left" if name in words else "right")
    for row in rows:
        mega = {name: f"{row[name] / 1e6:,.0f}" for name in ("weights", "imports", "peak", "peak_all_read")}
        table.add_row(
            row["model"], row["by"], row["towers"], mega["weights"], mega["imports"],
            mega["peak"], f"{row['peak_per_weights']:.2f}",
            mega["peak_all_read"], f"{row['all_read_per_weights']:.2f}",
            f"{row['seconds']:.2f}", f"{row['max_abs']:.1e}",
        )  # fmt: skip
    Console(stderr=True, width=150).print(table)


def main() -> int:
    """Builds, measures, prints; returns 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the JSON goes, beside standard output")
    parser.add_argument("--child", nargs=4, metavar=("FOLDER", "BY", "TOWERS", "VECTORS"), help=argparse.SUPPRESS)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        folder, by, towers, vectors = chosen.child
        child(Path(folder), by, towers, Path(vectors))
        return 0
    if chosen.build:
        build(chosen.build)
        return 0
    start = time.time()
    # On a busy machine the seconds say little; the memory and the differences do not depend on it.
    busy = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="babelclip-full-size-") as place:
        if (free := shutil.disk_usage(place).free) < NEEDED:
            raise SystemExit(f"{place} has {free / 1e9:.1f} GB free, {NEEDED / 1e9:.0f} GB are needed: set TMPDIR.")
        # Building takes memory that this process must not keep.
        subprocess.run([sys.executable, __file__, "--build", str(Path(place) / "models")], check=True)
        rows = measure(Path(place) / "models")
    show(rows)
    from importlib.metadata import version

    record = {
        "benchmark": "load_full_size",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average_before": busy,
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors", "tokenizers", "numpy")},
        "bar": BAR,
        "holds": all(row["max_abs"] <= 1e-5 for row in rows)
        and all(
            row["peak_per_weights"] <= BAR and row["all_read_without_imports_per_weights"] <= BAR for row in rows[:2]
        ),
        "rows": rows,
        "seconds": round(time.time() - start, 1),
    }
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record) + "\n")
    return 0 if record["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
