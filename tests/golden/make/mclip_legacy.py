"""M-CLIP 2021 by its own class: `multilingual_clip.legacy_multilingual_clip.MultilingualClip`, package 1.0.10 under
transformers 4.57.6 (the old oracle environment). The heads are pickles of [kernel (H, D), bias (D,)], as published."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import torch

from tests.golden.inputs import TEXTS
from tests.golden.make.common import out_folder, save_expected
from tests.golden.make.text_models import make_visible, save_wordpiece, versions

ENVIRONMENT = "old"

POSITIONS = 130


def save_head(path: Path, width: int, dim: int, seed: int, numpy1: bool) -> None:
    """Writes the pickle; with `numpy1` under the module names of numpy 1, in which the published files were made."""
    rng = np.random.default_rng(seed)
    weights = [(0.25 * rng.standard_normal(shape)).astype(np.float32) for shape in ((width, dim), (dim,))]
    content = pickle.dumps(weights, protocol=3)
    if numpy1:
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(content)


def write(
    name: str, config, head_name: str, dim: int, seed: int, *, safetensors: bool, numpy1: bool, **tokenizer
) -> None:
    from multilingual_clip.legacy_multilingual_clip import MultilingualClip
    from transformers import AutoModel

    folder = out_folder(name)
    config.vocab_size = save_wordpiece(folder, **tokenizer)
    backbone = AutoModel.from_config(config).eval()
    make_visible(backbone, seed)
    backbone.save_pretrained(folder, safe_serialization=safetensors)
    save_head(folder / head_name, 48, dim, seed, numpy1)
    model = MultilingualClip(str(folder), str(folder), head_name, weights_dir=f"{folder}/").eval()
    with torch.no_grad():
        whole = model(TEXTS).numpy()
        single = torch.cat([model(text) for text in TEXTS]).numpy()
    origin = (
        "multilingual_clip.legacy_multilingual_clip.MultilingualClip(folder, folder, head_name, weights_dir)(texts)"
    )
    notes = f"head {head_name!r} pickled under {'numpy 1' if numpy1 else 'numpy 2'} names"
    packages = versions("torch", "transformers", "multilingual-clip", "numpy")
    save_expected(folder, origin, packages, notes, text=whole, text_single=single)


if __name__ == "__main__":
    from transformers import BertConfig, DistilBertConfig

    distil = DistilBertConfig(
        dim=48, n_layers=2, n_heads=12, hidden_dim=64, max_position_embeddings=POSITIONS, sinusoidal_pos_embds=False
    )
    bert = BertConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=64,
        max_position_embeddings=POSITIONS,
    )  # fmt: skip
    write("mclip_legacy_distil", distil, "M-BERT Distil 40 Linear Weights.pkl", 20, 5, safetensors=False, numpy1=True)
    # As Swedish-2M: no accents stripped. As M-BERT-Base-ViT-B: the head has fewer outputs than the class declares.
    write(
        "mclip_legacy_swedish", bert, "Swedish-2M Linear Weights.pkl", 12, 6, safetensors=True, numpy1=False,
        strip_accents=False,
    )  # fmt: skip
