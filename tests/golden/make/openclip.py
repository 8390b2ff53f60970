"""open_clip's folders by open_clip 3.3.0 itself, in the current oracle environment (transformers 5.23, timm 1.0.31).

Each folder is read by `create_model_from_pretrained("local-dir:...")` and encoded with its own tokenizer and image
transform. A model that needs a backbone's config is built with a local one; afterwards open_clip_config.json names the
published backbone, whose sizes are other ones, so that a reader must take them from the tensors.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import tests.golden.make.torchvision_shim  # noqa: F401, I001  (first, see there)
import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer

from tests.golden.inputs import TEXTS, pictures
from tests.golden.make.bpe import save_hub_files, save_merges
from tests.golden.make.common import out_folder, save_expected, save_xlmr_tokenizer
from tests.golden.make.text_models import versions

ENVIRONMENT = "current"

PACKAGES = ("open_clip_torch", "torch", "torchvision", "transformers", "timm")
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PREPROCESS = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
VIT = {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}


def make_visible(model: torch.nn.Module, seed: int) -> None:
    """Draws every weight and every running statistic wide enough that a swapped or forgotten tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith(("num_batches_tracked", "attn_mask", "position_ids", "embed_positions.weights")):
                continue
            if name in ("logit_scale", "logit_bias"):
                tensor.copy_(torch.tensor(2.7 if name == "logit_scale" else -9.5))
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif tensor.ndim == 4:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.2 * noise)


def build(folder: Path, model_cfg: dict, preprocess_cfg: dict, seed: int, weights: str, half: bool = False):
    """Writes config and weights and returns the model and the transform that open_clip reads from them."""
    write_config(folder, model_cfg, preprocess_cfg)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    make_visible(model, seed)
    tensors = {name: (t.half() if half else t).clone().contiguous() for name, t in model.state_dict().items()}
    if weights.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(tensors, folder / weights)
        (folder / weights).chmod(0o644)
    else:
        torch.save(tensors, folder / weights)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval(), transform


def write_config(folder: Path, model_cfg: dict, preprocess_cfg: dict) -> None:
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def save_results(folder: Path, model, transform, tokenizer, notes: str, **more) -> None:
    ids = tokenizer(TEXTS)
    text = model.encode_text(ids)
    single = torch.cat([model.encode_text(tokenizer([text])) for text in TEXTS])
    image = torch.cat([model.encode_image(transform(picture)[None]) for picture in pictures()])
    assert text.isfinite().all()
    assert image.isfinite().all()
    assert (text - single).abs().max() < 1e-5
    more["logit_scale"] = model.logit_scale.exp().reshape(()).numpy()
    if model.logit_bias is not None:
        more["logit_bias"] = model.logit_bias.reshape(()).numpy()
    save_expected(
        folder,
        "open_clip.create_model_from_pretrained('local-dir:...'): encode_text, encode_image",
        versions(*PACKAGES),
        notes,
        text=text.numpy(),
        text_single=single.numpy(),
        image=image.numpy(),
        tokens=ids.numpy().astype(np.int32),
        **more,
    )


def english(name: str, vision: dict, *, seed: int, notes: str, form: str, weights: str, half=False, **model) -> None:
    """A CLIP with the English byte pair tokenizer."""
    folder = out_folder(name)
    with tempfile.TemporaryDirectory() as place:
        tokenizer = SimpleTokenizer(bpe_path=str(save_merges(Path(place))), context_length=32)
    if form == "merges":
        save_merges(folder)
    else:
        save_hub_files(folder, tokenizer.encoder, form)
    text = {"context_length": 32, "vocab_size": tokenizer.vocab_size, "width": 24, "heads": 4, "layers": 2}
    model_cfg = {"embed_dim": 20, **model, "vision_cfg": vision, "text_cfg": text}
    built, transform = build(folder, model_cfg, PREPROCESS, seed, weights, half)
    save_results(folder, built, transform, tokenizer, notes)


def worldwide() -> None:
    """MetaCLIP 2: the native text transformer over an XLM tokenizer, pooled at the first `</s>`."""
    folder = out_folder("openclip_worldwide")
    size = save_xlmr_tokenizer(folder)
    text = {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2, "context_length": 32,
            "vocab_size": size, "width": 24, "heads": 4, "layers": 2}  # fmt: skip
    model_cfg = {"embed_dim": 20, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": text}
    preprocess = {**PREPROCESS, "resize_mode": "squash"}
    model, transform = build(folder, model_cfg, preprocess, 3, "open_clip_model.safetensors")
    save_results(folder, model, transform, open_clip.get_tokenizer(f"local-dir:{folder}"), "MetaCLIP 2 type")


def xlm_roberta(name: str, text_cfg: dict, *, seed: int, notes: str, heads: int, vision: dict, published: str) -> None:
    """A CustomTextCLIP with an XLM-R text tower."""
    from transformers import XLMRobertaConfig

    folder = out_folder(name)
    config = XLMRobertaConfig(
        vocab_size=save_xlmr_tokenizer(folder), hidden_size=24, num_hidden_layers=2, num_attention_heads=heads,
        intermediate_size=40, max_position_embeddings=100, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        backbone = folder / published if published.startswith("text") else Path(place)
        config.save_pretrained(backbone)
        text = {"hf_model_name": str(backbone), "hf_tokenizer_name": "xlm-roberta-base", **text_cfg}
        model_cfg = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text}
        weights = "open_clip_model.safetensors" if seed % 2 else "open_clip_pytorch_model.bin"
        model, transform = build(folder, model_cfg, PREPROCESS, seed, weights)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        save_results(folder, model, transform, tokenizer, notes)
    text["hf_model_name"] = published
    write_config(folder, model_cfg, PREPROCESS)
    if weights.endswith(".bin"):
        # As the checkpoints of 2022 have it, which stricter loaders stumbled over.
        tensors = torch.load(folder / weights)
        tensors["text.transformer.embeddings.position_ids"] = torch.arange(100)[None]
        torch.save(tensors, folder / weights)


def nllb() -> None:
    """NLLB-CLIP with the picture tower of SigLIP: position 0 is the language of the text."""
    from transformers import M2M100Config

    tiny_trunks()
    folder = out_folder("openclip_nllb_siglip")
    size = save_nllb_tokenizer(folder)
    config = M2M100Config(
        vocab_size=size, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=16,
        decoder_attention_heads=16, encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=100,
        scale_embedding=True, activation_function="relu", pad_token_id=1,
    )  # fmt: skip
    published = "facebook/nllb-200-distilled-600M"
    vision = {"image_size": 32, "timm_model_name": "vit_so400m_patch14_siglip_384", "timm_model_pretrained": False,
              "timm_pool": "map", "timm_proj": "none"}  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        config.save_pretrained(place)
        text = {"hf_model_name": place, "hf_tokenizer_name": published, "hf_proj_type": "linear",
                "hf_pooler_type": "cls_pooler"}  # fmt: skip
        model_cfg = {"embed_dim": 32, "custom_text": True, "init_logit_bias": -10, "vision_cfg": vision,
                     "text_cfg": text}  # fmt: skip
        model, transform = build(folder, model_cfg, SIGLIP, 6, "open_clip_pytorch_model.bin")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        # `HFTokenizer.set_language` has no effect under transformers 5: the tokenizer itself is told.
        tokenizer.tokenizer.src_lang = "swe_Latn"
        swedish = {"tokens_sv": tokenizer(TEXTS).numpy().astype(np.int32)}
        with torch.no_grad():
            swedish["text_sv"] = model.encode_text(tokenizer(TEXTS)).numpy()
        tokenizer.tokenizer.src_lang = "eng_Latn"
        save_results(folder, model, transform, tokenizer, "text: eng_Latn, text_sv: swe_Latn", **swedish)
    text["hf_model_name"] = published
    write_config(folder, model_cfg, SIGLIP)


def save_nllb_tokenizer(folder: Path) -> int:
    """Writes tokenizer.json as NLLB's repositories of 2022 have it: the language stands behind the text there."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from tests.golden.make.common import characters

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *characters()]
    merges = [("▁", "a"), ("d", "o"), ("do", "g"), ("▁", "dog"), ("h", "u")]
    pieces += ["".join(pair) for pair in merges]
    languages = ["eng_Latn", "swe_Latn", "rus_Cyrl"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", *languages, "<mask>"])
    eng = tokenizer.token_to_id("eng_Latn")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> eng_Latn", pair="$A $B </s> eng_Latn", special_tokens=[("</s>", 2), ("eng_Latn", eng)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "NllbTokenizer", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>",
        "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>", "src_lang": None,
        "tgt_lang": None, "model_max_length": 1024, "additional_special_tokens": languages,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return tokenizer.get_vocab_size()


def siglip(name: str, trunk: str, text_cfg: dict, *, seed: int, notes: str) -> None:
    """SigLIP: no causal mask, the last of all positions, padding attended, sigmoid bias."""
    tiny_trunks()
    folder = out_folder(name)
    text = {"context_length": 24, "vocab_size": save_xlmr_tokenizer(folder), "hf_tokenizer_name": "timm/" + trunk,
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 1.6,
            "no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, **text_cfg}  # fmt: skip
    vision = {"image_size": 32, "timm_model_name": trunk, "timm_model_pretrained": False, "timm_pool": "map",
              "timm_proj": "none"}  # fmt: skip
    width = 32 if text_cfg.get("proj_type") == "none" else 24
    model_cfg = {
        "embed_dim": width,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    model, transform = build(folder, model_cfg, SIGLIP, seed, "open_clip_model.safetensors")
    save_results(folder, model, transform, open_clip.get_tokenizer(f"local-dir:{folder}"), notes)


def tiny_trunks() -> None:
    """Puts tiny picture towers into timm under the published names: heads and activation are those of the names."""
    import timm.models

    def register(name: str, **sizes) -> None:
        def trunk(pretrained: bool = False, **kwargs):
            (
                kwargs.pop("pretrained_cfg", None),
                kwargs.pop("pretrained_cfg_overlay", None),
                kwargs.pop("cache_dir", None),
            )
            return timm.models.VisionTransformer(
                **{**sizes, **kwargs, "img_size": 32, "depth": 2, "class_token": False, "global_pool": "map"}
            )

        trunk.__name__ = name
        timm.models._registry._model_entrypoints[name] = trunk

    register("vit_base_patch16_siglip_256", patch_size=8, embed_dim=24, num_heads=12, mlp_ratio=2)
    register("vit_so400m_patch14_siglip_384", patch_size=8, embed_dim=32, num_heads=16, mlp_ratio=1.3)
    register(
        "vit_so400m_patch16_siglip_256", patch_size=8, embed_dim=32, num_heads=16, mlp_ratio=1.7, act_layer="gelu_tanh"
    )


def main() -> None:
    english("openclip_vit", {**VIT, "width": 28, "head_width": 14, "mlp_ratio": 1.7}, seed=1, form="fast",
            weights="open_clip_model.safetensors", notes="plain gelu, heads of another width than 64")  # fmt: skip
    english("openclip_vit_quickgelu", VIT, seed=2, form="slow", weights="open_clip_pytorch_model.bin", quick_gelu=True,
            custom_text=True, notes="quick_gelu, text.* names")  # fmt: skip
    worldwide()
    xlm_roberta("openclip_xlmr", {"hf_pooler_type": "mean_pooler"}, seed=4, heads=12, vision=VIT,
                published="xlm-roberta-base", notes="mean, two-layer projection; old position_ids")  # fmt: skip
    xlm_roberta("openclip_xlmr_bundle", {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}, seed=5, heads=4,
                vision=VIT, published="text_backbone", notes="own backbone config, transformers' pooler")  # fmt: skip
    nllb()
    siglip("openclip_siglip", "vit_base_patch16_siglip_256", {"proj_bias": True}, seed=7, notes="i18n base type")
    siglip("openclip_siglip_tanh", "vit_so400m_patch16_siglip_256",
           {"proj_type": "none", "act_kwargs": {"approximate": "tanh"}}, seed=8,
           notes="no text projection, tanh approximation of gelu")  # fmt: skip
    resnet = {"image_size": 64, "layers": [2, 1, 1, 1], "width": 4, "patch_size": None}
    english("openclip_resnet", resnet, seed=9, form="merges", weights="model.safetensors", half=True,
            quick_gelu=True, notes="ResNet with attention pooling; half precision weights")  # fmt: skip


if __name__ == "__main__":
    main()
