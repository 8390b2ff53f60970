"""What `encode.py` encodes with, and what: random weights in two layouts, real captions, and work in floating point.

    python benchmarks/encode_models.py FOLDER SETTINGS        (run by encode.py, so that its memory is given back)

Speed does not depend on what the weights are, only on their number; the captions decide how long the rows are. So the
weights are random and the captions and the tokenizer are real.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sys
from pathlib import Path

MCLIP, ST, TEXTS = "mclip", "sentence-transformers", "texts.json"
BASE = {"layers": 12, "width": 768, "heads": 12, "mlp": 3072, "dim": 512}
LARGE = {"layers": 24, "width": 1024, "heads": 16, "mlp": 4096, "dim": 768}
POSITIONS = 514
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "multi30k"


# Weights


def tokenizer_file() -> Path | None:
    """Returns XLM-R's own tokenizer.json from the starter's package, or None where it is not installed."""
    from babelclip.starter.parts import XLMR_TOKENIZER, PartError, locate

    try:
        return locate(XLMR_TOKENIZER)
    except PartError:
        return None


def build(folder: Path, size: dict[str, int], tokenizer: Path) -> None:
    """Writes one model of that size twice: in M-CLIP's layout, and as sentence-transformers reads it."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    import babelclip
    from babelclip.models.export import export

    words = Tokenizer.from_file(str(tokenizer)).get_vocab_size(with_added_tokens=True)
    torch.manual_seed(0)
    target = folder / MCLIP
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, target / "tokenizer.json")
    content = {"tokenizer_class": "XLMRobertaTokenizer", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>",
               "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
               "model_max_length": 512}  # fmt: skip
    (target / "tokenizer_config.json").write_text(json.dumps(content))
    config = {
        "architectures": ["MultilingualCLIP"], "model_type": "M-CLIP", "numDims": size["dim"],
        "transformerDimensions": size["width"], "hidden_size": size["width"], "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"], "intermediate_size": size["mlp"], "vocab_size": words,
        "max_position_embeddings": POSITIONS, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config))
    tensors = {name: _random(name, shape) for name, shape in _shapes(size, words).items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    del tensors
    clip = babelclip.load(target, "text", dtype="float32", device="cpu", space="benchmark/random")
    export(clip, folder / ST, to="sentence-transformers", towers="text")


def _random(name: str, shape: tuple[int, ...]):  # noqa: ANN202 (torch is imported late)
    """Normal numbers of a width at which many layers neither vanish nor explode; norms near 1."""
    import torch

    tensor = torch.empty(shape).normal_(0, 0.03)
    return tensor.add_(1.0) if name.endswith("LayerNorm.weight") else tensor


def _shapes(size: dict[str, int], words: int) -> dict[str, tuple[int, ...]]:
    width, mlp = size["width"], size["mlp"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, width),
        "embeddings.position_embeddings.weight": (POSITIONS, width),
        "embeddings.token_type_embeddings.weight": (1, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for layer in range(size["layers"]):
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
    return shapes | {
        "LinearTransformation.weight": (size["dim"], width),
        "LinearTransformation.bias": (size["dim"],),
    }


def gflop(lengths: list[int], size: dict[str, int]) -> float:
    """Returns the work in 10^9 floating point operations that texts of these token counts need, without any padding.

    Matrix products only, two operations for each multiply-add: what a bar against the matmul rate compares.
    """
    width, mlp, layers = size["width"], size["mlp"], size["layers"]
    per_token = 2 * layers * (4 * width * width + 2 * width * mlp)
    attention = [4 * layers * width * length * length for length in lengths]
    return (per_token * sum(lengths) + sum(attention) + 2 * width * size["dim"] * len(lengths)) / 1e9


# Captions


def captions(files: list[Path], count: int) -> tuple[list[str], list[str]]:
    """Returns `count` captions in mixed order and a line for each source.

    Sources are the given files; else Multi30k beside the checkout and the Tux Paint captions, where they are on this
    machine; else the captions built into babelclip and the emoji names. Sources and, within one, languages have equal
    shares.
    """
    if files:
        sources = {path.name: _file(path) for path in files}
    else:
        sources = {**_multi30k(), **_tux_paint()} or {**_probe(), **_emoji()}
    rng = random.Random(0)
    chosen: list[str] = []
    notes = []
    for number, (name, by_language) in enumerate(sources.items()):
        wanted = (count * (number + 1)) // len(sources) - (count * number) // len(sources)
        texts = _round_robin(by_language, wanted, rng)
        notes.append(f"{name}: {len(set(texts))} texts, {len(by_language)} languages")
        chosen += texts
    rng.shuffle(chosen)
    return chosen, notes


def _round_robin(by_language: dict[str, list[str]], wanted: int, rng: random.Random) -> list[str]:
    """Returns texts of one language after the other; where there are too few, they come again."""
    shuffled = [rng.sample(texts, len(texts)) for _lang, texts in sorted(by_language.items()) if texts]
    turns = [texts[turn % len(texts)] for turn in range(-(-wanted // len(shuffled))) for texts in shuffled]
    return turns[:wanted]


def _by_language(table) -> dict[str, list[str]]:  # noqa: ANN001
    found: dict[str, list[str]] = {}
    for lang, text in zip(table.langs, table.texts, strict=True):
        found.setdefault(lang, []).append(text)
    return found


def _file(path: Path) -> dict[str, list[str]]:
    """Returns the texts of a table of captions by language, or of a plain file (.txt, also .gz) with one a line."""
    from babelclip.data.captions import read_captions

    if ".txt" in path.suffixes:
        return {path.name: _lines(path)}
    return _by_language(read_captions(path, "en"))  # the language of rows that name none changes shares only


def _lines(path: Path) -> list[str]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]


def _multi30k() -> dict[str, dict[str, list[str]]]:
    found = {path.suffixes[-2]: _lines(path) for path in SHARED.glob("test_2016_flickr.*.gz")}
    return {"Multi30k test_2016_flickr": found} if found else {}


def _tux_paint() -> dict[str, dict[str, list[str]]]:
    from babelclip.starter.debian import find_folder
    from babelclip.starter.tuxpaint import STAMPS, read_stamps

    folder = find_folder(STAMPS, download=False).folder
    return {"Tux Paint stamps": _by_language(read_stamps(folder))} if folder else {}


def _probe() -> dict[str, dict[str, list[str]]]:
    from babelclip.models.quantize import probe_texts

    return {"built-in captions": {str(number): [text] for number, text in enumerate(probe_texts())}}


def _emoji() -> dict[str, dict[str, list[str]]]:
    from babelclip.starter.emoji import emoji_captions
    from babelclip.starter.parts import PartError

    try:
        return {"emoji names": _by_language(emoji_captions())}
    except PartError:
        return {}


def main() -> None:
    """Builds in a process of its own: arguments are the folder and JSON with `size`, `tokenizer`."""
    settings = json.loads(sys.argv[2])
    build(Path(sys.argv[1]), settings["size"], Path(settings["tokenizer"]))


if __name__ == "__main__":
    main()
