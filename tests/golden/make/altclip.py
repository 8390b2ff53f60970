"""Run in BOTH oracle environments, old (transformers 4.57) and current (transformers 5.23, diffusers 0.42): AltCLIP.

The old one writes `altclip_hub` (the published layout), the current one `altclip_t5` (what `save_pretrained` of
transformers 5 writes) and `altclip_flagai` (a fine-tuning checkpoint of FlagAI, with the extra layer of the m18
diffusion copy, and the conditioning outputs of diffusers). Texts are cut at 77 tokens, as FlagAI does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[3]))
CURRENT = int(transformers.__version__.split(".")[0]) >= 5
if CURRENT:
    import tests.golden.make.torchvision_shim  # noqa: F401

import numpy as np  # noqa: E402
from transformers import AltCLIPConfig, AltCLIPModel, PreTrainedTokenizerFast  # noqa: E402

from tests.golden.inputs import TEXTS, pictures  # noqa: E402
from tests.golden.make.common import out_folder, save_expected, save_xlmr_tokenizer  # noqa: E402

ENVIRONMENT = ("old", "current")

WIDTH, PROJECT, PROJECTION, PICTURE = 24, 20, 16, 32
# Prompts and, as the pipelines have it, the empty negative prompt. The last is longer than 77 tokens.
CONDITIONS = [TEXTS[0], TEXTS[2], TEXTS[5], "", TEXTS[-1]]
SIZES = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def tiny_model(seed: int, vocabulary: int, act: str, layer_norm_eps: float) -> AltCLIPModel:
    """A random AltCLIP in which every bias, scale and activation shows in the output."""
    config = AltCLIPConfig(
        text_config={
            **SIZES, "vocab_size": vocabulary, "max_position_embeddings": 90, "project_dim": PROJECT,
            "layer_norm_eps": layer_norm_eps,
        },
        vision_config={**SIZES, "image_size": PICTURE, "patch_size": 8, "hidden_act": act},
        projection_dim=PROJECTION,
    )  # fmt: skip
    model = AltCLIPModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 1
        model.logit_scale.fill_(3.1)
    return model


def feature(output: torch.Tensor | object) -> np.ndarray:
    """The projected vectors: a tensor in transformers 4, an output object in 5."""
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).numpy()


@torch.no_grad()
def expected(model: AltCLIPModel, folder: Path, count: int) -> dict[str, np.ndarray]:
    """Text vectors, batched and one at a time, vectors and pixels of the first `count` pictures, and the logits."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def tokens(texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    if CURRENT:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    else:
        from transformers import CLIPImageProcessor as Processor
    processor = Processor.from_pretrained(folder)
    pixels = torch.cat([processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures()[:count]])
    return {
        "text": feature(model.get_text_features(**tokens(TEXTS))),
        "text_single": np.concatenate([feature(model.get_text_features(**tokens([text]))) for text in TEXTS]),
        "image": feature(model.get_image_features(pixel_values=pixels)),
        "pixels": pixels.numpy(),
        "logit_scale": model.logit_scale.exp().numpy(),
        "logits_per_text": model(pixel_values=pixels, **tokens(TEXTS)).logits_per_text.numpy(),
    }


@torch.no_grad()
def conditioning(model: AltCLIPModel, extra: dict[str, torch.Tensor], folder: Path) -> dict[str, np.ndarray]:
    """What AltDiffusion's encoder gives in diffusers (N, 77, D), of m2 and m9 and of m18, and transformers' states."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    encoded = tokenizer(CONDITIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    tokens = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    weights = {
        name.replace("encoder.layers.", "encoder.layer."): tensor
        for name, tensor in model.text_model.state_dict().items()
    }
    states = {}
    for name, pre in (("states_m9", False), ("states_m18", True)):
        config = RobertaSeriesConfig(**model.config.text_config.to_dict(), has_pre_transformation=pre)
        encoder = RobertaSeriesModelWithTransformation(config).eval()
        left = encoder.load_state_dict({**weights, **extra}, strict=False)
        assert [key for key in left.missing_keys if "pooler" not in key] == [], left
        unused = {key.split(".")[0] for key in left.unexpected_keys}
        assert unused == (set() if pre else {"pre_LN", "transformation_pre"}), left
        states[name] = encoder(**tokens, return_dict=True).projection_state.numpy()
    states["states_transformers"] = model.text_model(**tokens).last_hidden_state.numpy()
    return states


def write_config(model: AltCLIPModel, folder: Path, preprocessor: dict, **legacy: object) -> None:
    """`config.json` and `preprocessor_config.json` as the hub has them."""
    config = model.config.to_dict()
    config = {**config, "architectures": ["AltCLIPModel"], "model_type": "altclip", "torch_dtype": "float32", **legacy}
    for name, content in (("config", config), ("preprocessor_config", preprocessor)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def hub() -> None:
    """The published layout: `.bin` with position_ids, a config with keys of old versions, the scalar preprocessor."""
    folder = out_folder("altclip_hub")
    model = tiny_model(1, save_xlmr_tokenizer(folder, 512), "quick_gelu", 1e-5)
    scalar = {
        "crop_size": PICTURE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD, "resample": 3,
        "size": PICTURE,
    }  # fmt: skip
    text = model.config.text_config.to_dict()
    write_config(
        model, folder, scalar, direct_kd=False, num_layers=3, text_config_dict=text, vision_config_dict=None,
        text_config={**text, "num_hidden_layers": 5, "variant": "invert", "pooler_fn": "cls", "torch_dtype": "float32"},
    )  # fmt: skip
    tensors = dict(model.state_dict())
    tensors["text_model.roberta.embeddings.position_ids"] = torch.arange(90)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(tensors, folder / "pytorch_model.bin")
    # The eighth picture is transparent: 4.57 drops that, 5.23 lays it on white, which is babelclip's rule.
    finish(folder, expected(model, folder, 7), "AltCLIPModel and CLIPImageProcessor of transformers")


def t5() -> None:
    """`save_pretrained` of transformers 5, with the plain gelu of OpenCLIP's image towers."""
    folder = out_folder("altclip_t5")
    model = tiny_model(2, save_xlmr_tokenizer(folder, 512), "gelu", 1e-3)
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": PICTURE}, "crop_size": {"height": PICTURE, "width": PICTURE}}
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    finish(folder, expected(model, folder, 9), "AltCLIPModel and CLIPImageProcessorPil of transformers")


def flagai() -> None:
    """`{"module": ...}` with the prefix of distributed training and `transformation_pre`, as of AltDiffusion-m18."""
    folder = out_folder("altclip_flagai")
    model = tiny_model(3, save_xlmr_tokenizer(folder, 512), "quick_gelu", 1e-5)
    scalar = {"crop_size": PICTURE, "image_mean": MEAN, "image_std": STD, "resample": 3, "size": PICTURE}
    write_config(model, folder, scalar)
    generator = torch.Generator().manual_seed(4)
    extra = {
        "transformation_pre.weight": torch.randn(PROJECT, WIDTH, generator=generator) * 0.25,
        "transformation_pre.bias": torch.randn(PROJECT, generator=generator) * 0.25,
    }
    tensors = {
        **{
            name.replace("roberta.encoder.layers.", "roberta.encoder.layer."): tensor
            for name, tensor in model.state_dict().items()
        },
        **{f"text_model.{name}": tensor for name, tensor in extra.items()},
        "text_model.roberta.embeddings.position_ids": torch.arange(90)[None],
    }
    wrapped = {"module": {f"module.{name}": tensor for name, tensor in tensors.items()}, "iteration": 100}
    torch.save(wrapped, folder / "pytorch_model.bin")
    arrays = {**expected(model, folder, 4), **conditioning(model, extra, folder)}
    finish(folder, arrays, "AltCLIPModel of transformers; RobertaSeriesModelWithTransformation of diffusers")


def finish(folder: Path, arrays: dict[str, np.ndarray], origin: str) -> None:
    """Writes what the original computed, and removes what the published folders do not have."""
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    if "diffusers" in origin:
        import diffusers

        versions["diffusers"] = diffusers.__version__
    save_expected(folder, origin, versions, "texts are truncated at 77 tokens", **arrays)


if __name__ == "__main__":
    for make in (t5, flagai) if CURRENT else (hub,):
        make()
