"""Contrastive-Tension: the masked mean of its `Inference.torchGenerateSentenceEmbeddings` (75293a8, 2022-05), done here
with the same calls (tokenizer with padding and no truncation, model, masked mean in numpy) under transformers 4.57.6
(the old oracle environment). The package itself only adds TensorFlow training code to these calls."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import torch

from tests.golden.inputs import TEXTS
from tests.golden.make.common import out_folder, save_expected
from tests.golden.make.text_models import make_visible, save_byte_pairs, save_wordpiece, versions

ENVIRONMENT = "old"

POSITIONS = 130


def embed(model, tokenizer, texts: list[str]) -> np.ndarray:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0].numpy()
    mask = batch["attention_mask"].numpy()
    return (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)


def write(name: str, model_class: str, config, save_tokenizer, seed: int, notes: str, **saving) -> None:
    import transformers

    folder = out_folder(name)
    config.vocab_size = save_tokenizer(folder)
    model = getattr(transformers, model_class)(config).eval()
    make_visible(model, seed)
    model.save_pretrained(folder, **saving)
    loaded = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    whole = embed(loaded, tokenizer, TEXTS)
    single = np.concatenate([embed(loaded, tokenizer, [text]) for text in TEXTS])
    save_expected(
        folder, "AutoModel and AutoTokenizer, masked mean in numpy as in Contrastive-Tension/Inference.py",
        versions("torch", "transformers", "numpy"), notes, text=whole, text_single=single,
    )  # fmt: skip


if __name__ == "__main__":
    from transformers import BertConfig, DistilBertConfig, RobertaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    write(
        "contrastive_tension_bert", "BertModel", BertConfig(**sizes, max_position_embeddings=POSITIONS),
        lambda folder: save_wordpiece(folder, lower=True), 7, "pytorch_model.bin; vocab.txt, lower-cased",
        safe_serialization=False,
    )  # fmt: skip
    write(
        "contrastive_tension_swedish", "BertForMaskedLM", BertConfig(**sizes, max_position_embeddings=POSITIONS),
        lambda folder: save_wordpiece(folder, strip_accents=False), 8,
        "pytorch_model.bin of the class for masked words: names with bert., cls.*; vocab.txt, cased, accents kept",
        safe_serialization=False,
    )  # fmt: skip
    write(
        "contrastive_tension_distil", "DistilBertModel",
        DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=POSITIONS),
        lambda folder: save_wordpiece(folder, lower=True), 9, "model.safetensors; vocab.txt, lower-cased",
    )  # fmt: skip
    write(
        "contrastive_tension_roberta", "RobertaModel",
        RobertaConfig(**sizes, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5),
        save_byte_pairs, 10, "model.safetensors; vocab.json and merges.txt",
    )  # fmt: skip
