"""Golden OpenAI-CLIP folders in transformers layout. Run with transformers 4.57, no torchvision. Transparency is laid
on white first, as the processors of transformers 5 do.

    clip                   as `save_pretrained` of 4.57 writes it (laion exports, converted OpenAI towers)
    clip_old               as the first OpenAI folders: text_config_dict and vision_config_dict, eos_token_id 2,
                           vocab.json + merges.txt without tokenizer.json, scalar preprocessor sizes, two `.bin` shards
                           with position_ids
    clip_text_projection   CLIPTextModelWithProjection: the text tower alone
    clip_image_projection  CLIPVisionModelWithProjection: the picture tower alone

The module is not called clip: that is OpenAI's package, which generators beside it import.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizerFast,
    CLIPVisionModelWithProjection,
)

from tests.golden.inputs import TEXTS, pictures
from tests.golden.make.common import out_folder, save_expected
from tests.golden.make.hf import checksums, clip_bpe, enlarge, on_white, versions

ENVIRONMENT = "old"

SIZE = 32


def config(vocabulary: int, eos: int) -> CLIPConfig:
    """Two layers of width 32, embed_dim 24; gelu in one tower, as in no published model, to see that it is read."""
    return CLIPConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": vocabulary, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 24,
            "bos_token_id": vocabulary - 2, "eos_token_id": eos, "pad_token_id": vocabulary - 1,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": 8, "hidden_act": "gelu", "projection_dim": 24,
        },
        projection_dim=24,
    )  # fmt: skip


def tokens(tokenizer, texts):
    return tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")


def outputs(model, tokenizer, processor) -> dict[str, np.ndarray]:
    """What `CLIPModel` gives on the golden texts and pictures, raw and as logits."""
    pixels = processor([on_white(picture) for picture in pictures()], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        texts = tokens(tokenizer, TEXTS)
        text = model.get_text_features(**texts)
        single = torch.cat([model.get_text_features(**tokens(tokenizer, [one])) for one in TEXTS])
        both = model(**texts, pixel_values=pixels)
        image = model.get_image_features(pixel_values=pixels)
    return {
        "text": text.numpy(),
        "text_single": single.numpy(),
        "image": image.numpy(),
        "pixels_crc": checksums(pixels),
        "logits_per_text": both.logits_per_text.numpy(),
        "logit_scale": np.float32(model.logit_scale.exp().item()),
    }


def new_layout(processor) -> tuple[CLIPModel, Path]:
    folder = out_folder("clip")
    tokenizer = clip_bpe(folder)
    torch.manual_seed(0)
    model = CLIPModel(config(len(tokenizer), len(tokenizer) - 1)).eval()
    enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    save_expected(folder, "transformers CLIPModel", versions(), **outputs(model, tokenizer, processor))
    return model, folder


def old_layout(processor) -> None:
    folder = out_folder("clip_old")
    tokenizer = clip_bpe(folder)
    torch.manual_seed(1)
    settings = config(len(tokenizer), 2)
    model = CLIPModel(settings).eval()
    enlarge(model)
    model.save_pretrained(folder, safe_serialization=False, max_shard_size="160KB")
    for shard in sorted(folder.glob("pytorch_model-00001*.bin")):
        state = torch.load(shard, weights_only=True)
        state["text_model.embeddings.position_ids"] = torch.arange(77).expand((1, -1))
        state["vision_model.embeddings.position_ids"] = torch.arange(17).expand((1, -1))
        torch.save(state, shard)
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
        index["weight_map"] |= {name: shard.name for name in state}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    content = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        # The first files hold defaults under text_config and what counts under text_config_dict.
        content[f"{tower}_dict"] = content[tower]
        content[tower] = {"hidden_size": 512, "model_type": content[tower]["model_type"]}
    (folder / "config.json").write_text(json.dumps(content, indent=2))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": SIZE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
                "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": SIZE,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
            }
        )
    )  # fmt: skip
    (folder / "tokenizer.json").unlink(missing_ok=True)
    again = CLIPModel.from_pretrained(folder).eval()
    slow = CLIPTokenizerFast.from_pretrained(folder)
    read = CLIPImageProcessor.from_pretrained(folder)
    save_expected(folder, "transformers CLIPModel.from_pretrained", versions(), **outputs(again, slow, read))


def projections(model: CLIPModel, source: Path) -> None:
    text = CLIPTextModelWithProjection(model.config.text_config).eval()
    image = CLIPVisionModelWithProjection(model.config.vision_config).eval()
    text.load_state_dict({k: v for k, v in model.state_dict().items() if k in text.state_dict()})
    image.load_state_dict({k: v for k, v in model.state_dict().items() if k in image.state_dict()})
    with np.load(source / "expected.npz") as arrays:
        expected = dict(arrays)
    for name, tower, files in (
        ("text", text, ("tokenizer.json", "tokenizer_config.json")),
        ("image", image, ("preprocessor_config.json",)),
    ):
        folder = out_folder(f"clip_{name}_projection")
        tower.save_pretrained(folder)
        for file in files:
            shutil.copy(source / file, folder)
        save_expected(folder, f"transformers {type(tower).__name__}", versions(), **{name: expected[name]})


if __name__ == "__main__":
    pil = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    projections(*new_layout(pil))
    old_layout(pil)
