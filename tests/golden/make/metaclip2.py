"""A golden MetaCLIP 2 folder in transformers layout. Run with transformers 4.57, no torchvision. Transparency is laid
on white first, as the processors of transformers 5 do.

XLM-R-type tokenizer (XLM-V's), pooling at the first id 2, pictures squashed to the square.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPImageProcessor, MetaClip2Config, MetaClip2Model

from tests.golden.inputs import TEXTS, pictures
from tests.golden.make.common import out_folder, save_expected, save_xlmr_tokenizer
from tests.golden.make.hf import checksums, enlarge, on_white, versions

ENVIRONMENT = "old"

SIZE = 32


def config(vocabulary: int) -> MetaClip2Config:
    return MetaClip2Config(
        text_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": vocabulary, "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": 24,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": 8, "hidden_act": "quick_gelu", "projection_dim": 24,
        },
        projection_dim=24,
    )  # fmt: skip


def main() -> None:
    folder = out_folder("metaclip2")
    vocabulary = save_xlmr_tokenizer(folder, max_length=512)
    torch.manual_seed(5)
    model = MetaClip2Model(config(vocabulary)).eval()
    enlarge(model)
    model.save_pretrained(folder)
    square = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessor(size=square, crop_size=square)
    processor.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokens(texts):
        return tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt").to("cpu")

    pixels = processor([on_white(picture) for picture in pictures()], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        batch = tokens(TEXTS)
        ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        text = model.get_text_features(**ids)
        single = torch.cat([model.get_text_features(input_ids=tokens([one])["input_ids"]) for one in TEXTS])
        image = model.get_image_features(pixel_values=pixels)
        both = model(**ids, pixel_values=pixels)
    save_expected(
        folder, "transformers MetaClip2Model", versions(), notes="truncation at 77", text=text.numpy(),
        text_single=single.numpy(), image=image.numpy(), logits_per_text=both.logits_per_text.numpy(),
        logit_scale=np.float32(model.logit_scale.exp().item()), pixels_crc=checksums(pixels),
    )  # fmt: skip


if __name__ == "__main__":
    main()
