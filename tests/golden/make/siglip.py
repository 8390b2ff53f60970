"""Golden SigLIP folders in transformers layout. Run with transformers 4.57, sentencepiece, no torchvision.

    siglip          SigLIP and its multilingual sister: SiglipTokenizer (spiece.model, and tokenizer.json beside it as
                    the hub has it), bicubic
    siglip2_fixed   SigLIP 2 at a fixed resolution: model_type "siglip", Gemma tokenizer, bilinear. The caller
                    lower-cases the text, as the model was trained and as transformers' own `Siglip2Tokenizer` does
    siglip2_naflex  SigLIP 2 NaFlex: model_type "siglip2", pictures as patches in their own aspect ratio

Pictures are turned to RGB first, over white as transformers 5 does: `SiglipImageProcessor` of 4.57 leaves that to the
caller.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)

from tests.golden.inputs import TEXTS, pictures
from tests.golden.make.common import out_folder, save_expected
from tests.golden.make.hf import checksums, enlarge, on_white, save_gemma_tokenizer, save_siglip_tokenizer, versions

ENVIRONMENT = "old"

SIZE = 32
RGB = [on_white(picture) for picture in pictures()]


def text_config(vocabulary: int, pad: int) -> dict:
    return {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": vocabulary, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
        "projection_size": 24, "pad_token_id": pad, "bos_token_id": 2, "eos_token_id": 1,
    }  # fmt: skip


def vision_config(**more) -> dict:
    return {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "patch_size": 8, "hidden_act": "gelu_pytorch_tanh", **more,
    }  # fmt: skip


def outputs(model, tokenize, pictures_in: dict) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        text = model.get_text_features(input_ids=tokenize(TEXTS))
        single = torch.cat([model.get_text_features(input_ids=tokenize([one])) for one in TEXTS])
        image = model.get_image_features(**pictures_in)
        both = model(input_ids=tokenize(TEXTS), **pictures_in)
    return {
        "text": text.numpy(),
        "text_single": single.numpy(),
        "image": image.numpy(),
        "logits_per_text": both.logits_per_text.numpy(),
        "logit_scale": np.float32(model.logit_scale.exp().item()),
        "logit_bias": np.float32(model.logit_bias.item()),
    }


def padded(tokenizer, lower: bool):
    def tokenize(texts):
        texts = [text.lower() for text in texts] if lower else list(texts)
        return tokenizer(texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt")["input_ids"]

    return tokenize


def siglip() -> None:
    folder = out_folder("siglip")
    tokenizer: SiglipTokenizer = save_siglip_tokenizer(folder)
    torch.manual_seed(2)
    settings = SiglipConfig(
        text_config=text_config(tokenizer.vocab_size, 1), vision_config=vision_config(image_size=SIZE)
    )
    model = SiglipModel(settings).eval()
    enlarge(model)
    model.save_pretrained(folder)
    processor = SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=3)
    processor.save_pretrained(folder)
    inputs = processor(RGB, return_tensors="pt")
    save_expected(
        folder, "transformers SiglipModel, SiglipTokenizer, SiglipImageProcessor", versions(),
        notes="padding='max_length', max_length=64, no attention mask; pictures as RGB",
        **outputs(model, padded(tokenizer, lower=False), dict(inputs)), pixels_crc=checksums(inputs["pixel_values"]),
    )  # fmt: skip


def siglip2_fixed() -> None:
    folder = out_folder("siglip2_fixed")
    size = save_gemma_tokenizer(folder)
    torch.manual_seed(3)
    settings = SiglipConfig(text_config=text_config(size, 0), vision_config=vision_config(image_size=SIZE))
    model = SiglipModel(settings).eval()
    enlarge(model)
    model.save_pretrained(folder)
    processor = SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=2)
    processor.save_pretrained(folder)
    inputs = processor(RGB, return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    save_expected(
        folder, "transformers SiglipModel, GemmaTokenizerFast, SiglipImageProcessor", versions(),
        notes="text.lower(), padding='max_length', max_length=64, no attention mask; pictures as RGB",
        **outputs(model, padded(tokenizer, lower=True), dict(inputs)), pixels_crc=checksums(inputs["pixel_values"]),
    )  # fmt: skip


def siglip2_naflex() -> None:
    folder = out_folder("siglip2_naflex")
    size = save_gemma_tokenizer(folder)
    torch.manual_seed(4)
    settings = Siglip2Config(text_config=text_config(size, 0), vision_config=vision_config(num_patches=16))
    model = Siglip2Model(settings).eval()
    enlarge(model)
    model.save_pretrained(folder)
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=20)
    processor.save_pretrained(folder)
    inputs = processor(RGB, return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    save_expected(
        folder, "transformers Siglip2Model, GemmaTokenizerFast, Siglip2ImageProcessor", versions(),
        notes="text.lower(), padding='max_length', max_length=64, no attention mask; pictures as RGB",
        **outputs(model, padded(tokenizer, lower=True), dict(inputs)),
        pixels_crc=checksums(inputs["pixel_values"]), spatial_shapes=inputs["spatial_shapes"].numpy(),
    )  # fmt: skip


if __name__ == "__main__":
    siglip()
    siglip2_fixed()
    siglip2_naflex()
