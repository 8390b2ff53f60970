"""M-CLIP 2022 by its own class: multilingual-clip 1.0.10 under transformers 4.57.6 (the old oracle environment).

The inline layout of Kandinsky 2.1 comes from diffusers' class of the same name. Each backbone is built in a folder that
the original class reads as `modelBase`; afterwards config.json names the published backbone, whose sizes are other
ones, so that a reader must take them from the tensors.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch

from tests.golden.inputs import TEXTS
from tests.golden.make.common import out_folder, save_expected, save_xlmr_tokenizer
from tests.golden.make.text_models import make_visible, rewrite_config, save_wordpiece, versions

ENVIRONMENT = "old"

DIM = 16
POSITIONS = 130


def encode(model, tokenizer, texts):
    with torch.no_grad():
        return model.forward(texts, tokenizer).numpy()


def save_results(folder: Path, model, tokenizer, origin: str, notes: str, *packages: str) -> None:
    whole = encode(model, tokenizer, TEXTS)
    single = torch.cat([torch.from_numpy(encode(model, tokenizer, text)) for text in TEXTS]).numpy()
    packages = ("torch", "transformers", *packages)
    save_expected(folder, origin, versions(*packages), notes, text=whole, text_single=single)


def original(name: str, model_base: str, backbone_config, save_tokenizer, seed: int, notes: str, **saving) -> Path:
    """Writes one folder with `modelBase` and its expected vectors."""
    from multilingual_clip.Config_MCLIP import MCLIPConfig
    from multilingual_clip.pt_multilingual_clip import MultilingualCLIP
    from transformers import AutoModel, AutoTokenizer

    folder = out_folder(name)
    backbone_config.vocab_size = save_tokenizer(folder)
    with tempfile.TemporaryDirectory() as base:
        AutoModel.from_config(backbone_config).save_pretrained(base)
        config = MCLIPConfig(modelBase=base, transformerDimSize=backbone_config.hidden_size, imageDimSize=DIM)
        model = MultilingualCLIP(config)
        make_visible(model, seed)
        if saving.pop("bin", False):
            config.architectures = ["MultilingualCLIP"]
            config.save_pretrained(folder)
            torch.save(with_position_ids(model.state_dict()), folder / "pytorch_model.bin")
        else:
            model.save_pretrained(folder, **saving)
        loaded = MultilingualCLIP.from_pretrained(folder)
        # The tokenizer's class would be looked up by the type "M-CLIP", which transformers does not know.
        tokenizer = AutoTokenizer.from_pretrained(folder, config=backbone_config)
        origin = (
            "multilingual_clip.pt_multilingual_clip.MultilingualCLIP.from_pretrained(folder).forward(texts, tokenizer)"
        )
        save_results(folder, loaded, tokenizer, origin, notes, "multilingual-clip")
    rewrite_config(folder, modelBase=model_base)
    return folder


def with_position_ids(state):
    """Old files carry this buffer; it is no weight."""
    return {**state, "transformer.embeddings.position_ids": torch.arange(POSITIONS)[None]}


def xlmr() -> None:
    from transformers import XLMRobertaConfig

    config = XLMRobertaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=16, intermediate_size=64,
        max_position_embeddings=POSITIONS, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    original("mclip_xlmr", "xlm-roberta-large", config, save_xlmr_tokenizer, 1, "model.safetensors; tokenizer.json")


def bert() -> None:
    from transformers import BertConfig

    config = BertConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=64,
        max_position_embeddings=POSITIONS,
    )  # fmt: skip
    notes = "pytorch_model.bin with position_ids and pooler; vocab.txt only, cased"
    original("mclip_bert", "sentence-transformers/LaBSE", config, save_wordpiece, 2, notes, bin=True)


def distilbert() -> None:
    from transformers import DistilBertConfig

    config = DistilBertConfig(
        dim=48, n_layers=2, n_heads=12, hidden_dim=64, max_position_embeddings=POSITIONS, sinusoidal_pos_embds=False
    )
    notes = "two or more safetensors shards; tokenizer.json of WordPiece, cased"
    original(
        "mclip_distilbert", "distilbert-base-multilingual-cased", config,
        lambda folder: save_wordpiece(folder, tokenizer_class="DistilBertTokenizerFast"), 3, notes,
        max_shard_size="60KB",
    )  # fmt: skip


class OriginalCall:
    """diffusers' class takes ids; the steps before it are those of its pipeline, without its fixed length."""

    def __init__(self, model) -> None:
        self.model = model

    def forward(self, texts, tokenizer):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        return self.model(batch["input_ids"], batch["attention_mask"])[0]


def inline() -> None:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
    from transformers import AutoTokenizer

    folder = out_folder("mclip_inline")
    config = MCLIPConfig(
        transformerDimSize=32, imageDimSize=DIM, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=POSITIONS, type_vocab_size=1, pad_token_id=1,
        layer_norm_eps=1e-5, vocab_size=save_xlmr_tokenizer(folder), hidden_act="gelu",
    )  # fmt: skip
    model = MultilingualCLIP(config).eval()
    make_visible(model, 4)
    config.architectures = ["MultilingualCLIP"]
    config.save_pretrained(folder)
    torch.save(with_position_ids(model.state_dict()), folder / "pytorch_model.bin")
    loaded = MultilingualCLIP.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    origin = "diffusers.pipelines.kandinsky.text_encoder.MultilingualCLIP.from_pretrained(folder)(ids, mask)[0]"
    notes = "pytorch_model.bin with position_ids; backbone fields inline in config.json, no modelBase"
    save_results(folder, OriginalCall(loaded), tokenizer, origin, notes, "diffusers")


if __name__ == "__main__":
    xlmr()
    bert()
    distilbert()
    inline()
