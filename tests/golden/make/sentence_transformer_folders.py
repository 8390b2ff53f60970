"""sentence-transformers folders by sentence-transformers 6.2 (the current oracle environment).

One folder has the files of clip-ViT-B-32-multilingual-v1 (saved in 2021: module paths and boolean pooling keys of that
time), the other is saved by 6.2 itself, with what the first lacks: a tokenizer that lower-cases, CLS pooling, Dense
layers with bias, Tanh and GELU, Normalize, a default prompt.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import tests.golden.make.torchvision_shim  # noqa: I001, F401

import json

import numpy as np
import torch

from tests.golden.inputs import TEXTS
from tests.golden.make.common import out_folder, save_expected
from tests.golden.make.text_models import make_visible, save_wordpiece, versions

ENVIRONMENT = "current"
ORIGIN = "sentence_transformers.SentenceTransformer(folder).encode(texts)"


def encode(folder: Path, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_numpy=True)


def results(folder: Path) -> dict[str, np.ndarray]:
    return {"text": encode(folder, TEXTS), "text_single": np.concatenate([encode(folder, [text]) for text in TEXTS])}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def multilingual_clip() -> None:
    from transformers import DistilBertConfig, DistilBertModel

    folder = out_folder("sentence_transformers_2021")
    vocabulary = save_wordpiece(folder)
    config = DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=128, vocab_size=vocabulary
    )
    model = DistilBertModel(config)
    make_visible(model, 21)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    dense = torch.nn.Linear(32, 16, bias=False)
    make_visible(dense, 22)
    part = "sentence_transformers.models."
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": part + kind} for i, (path, kind) in enumerate(modules)],
    )
    # Shorter than the longest golden text, which is therefore truncated.
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
    activation = "torch.nn.modules.linear.Identity"
    write_json(
        folder / "2_Dense" / "config.json",
        {"in_features": 32, "out_features": 16, "bias": False, "activation_function": activation},
    )
    torch.save({"linear.weight": dense.weight.detach()}, folder / "2_Dense" / "pytorch_model.bin")
    packages = versions("torch", "transformers", "sentence-transformers")
    arrays = results(folder)
    path = folder / "sentence_bert_config.json"
    saved = path.read_text(encoding="utf-8")
    write_json(path, {"max_seq_length": 48, "do_lower_case": True})
    arrays["text_lower"] = encode(folder, TEXTS)
    path.write_text(saved, encoding="utf-8")
    notes = "layout of clip-ViT-B-32-multilingual-v1; text_lower is of the same folder with do_lower_case"
    save_expected(folder, ORIGIN, packages, notes, **arrays)


def saved_now() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    folder = out_folder("sentence_transformers_6")
    base = folder / "base"
    base.mkdir(exist_ok=True)
    # A tokenizer that lower-cases by itself. With Transformer(do_lower_case=True) instead, 6.2 writes the rule into
    # tokenizer.json alone, and transformers 5.23 then forgets it when it reads the folder.
    vocabulary = save_wordpiece(base, lower=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(**sizes, max_position_embeddings=128, vocab_size=vocabulary))
    make_visible(model, 23)
    model.save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=48)
    dense = Dense(32, 16, bias=True, activation_function=torch.nn.Tanh())
    make_visible(dense, 24)
    last = Dense(16, 12, bias=True, activation_function=torch.nn.GELU())
    make_visible(last, 25)
    pooling = Pooling(32, pooling_mode="cls")
    prompts = {"query": "photo: ", "document": ""}
    whole = SentenceTransformer(
        modules=[transformer, pooling, dense, last, Normalize()], prompts=prompts, default_prompt_name="query",
        device="cpu",
    )  # fmt: skip
    whole.save(str(folder), create_model_card=False)
    for path in sorted(base.iterdir()):
        path.unlink()
    base.rmdir()
    arrays = results(folder)
    path = folder / "1_Pooling" / "config.json"
    saved = path.read_text(encoding="utf-8")
    for mode in ("mean", "max", "lasttoken"):
        write_json(path, {**json.loads(saved), "pooling_mode": mode})
        arrays[f"text_{mode}"] = encode(folder, TEXTS)
    path.write_text(saved, encoding="utf-8")
    notes = "saved by 6.2; text_mean, text_max and text_lasttoken are of the same folder with another pooling_mode"
    save_expected(folder, ORIGIN, versions("torch", "transformers", "sentence-transformers"), notes, **arrays)


if __name__ == "__main__":
    multilingual_clip()
    saved_now()
