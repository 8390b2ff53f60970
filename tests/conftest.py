"""Tiny random models and pictures, made in memory: no network, no downloads."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models of this size only wait for a second thread. Tests that are about threads set their number themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder, build_image_backbone
from babelclip.models.preprocess import Preprocess
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.models.tokenization import TextTokenizer

# How long an example takes is the machine's matter: a busy one is slow, not wrong.
hypothesis.settings.register_profile("babelclip", deadline=None)
hypothesis.settings.load_profile("babelclip")

EMBED_DIM = 16
WORDS = "a the red green blue circle square star dog cat två hundar katt röd два красный 狗 猫 红 كلب أحمر".split()
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}


def make_tokenizer(max_length: int = 16, prefix: str = "") -> TextTokenizer:
    """A unigram tokenizer in the manner of XLM-R: words above, and every character of the scripts used in tests."""
    characters = sorted({c for word in WORDS for c in word} | set("abcdefghijklmnopqrstuvwxyz0123456789.,:!?-▁ "))
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [(c, -6.0) for c in characters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return TextTokenizer(tokenizer, max_length=max_length, pad_id=1, prefix=prefix)


def make_text_encoder(seed: int = 0, layers: int = 3, pooling: str = "mean", embed_dim: int = EMBED_DIM) -> TextEncoder:
    """A random BERT of width 32 with a linear head."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": tokenizer.vocabulary_size,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 1,
    }
    head = [{"kind": "linear", "out": embed_dim}]
    return TextEncoder(build_text_backbone(config), pooling=pooling, head=head, tokenizer=tokenizer).eval()


def make_image_encoder(seed: int = 0, embed_dim: int = EMBED_DIM) -> ImageEncoder:
    """A random CLIP vision transformer on pictures of 32 x 32."""
    torch.manual_seed(seed)
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    head = [{"kind": "linear", "out": embed_dim, "bias": False}]
    preprocess = Preprocess(resize=32, crop=32)
    return ImageEncoder(build_image_backbone(config), head=head, preprocess=preprocess).eval()


def make_clip(seed: int = 0) -> Clip:
    """Both towers, in the space "test/tiny"."""
    return Clip(
        space="test/tiny",
        text=make_text_encoder(seed),
        image=make_image_encoder(seed + 1),
        logit_scale=10.0,
        languages=("en", "sv"),
        name="tiny",
    )


def draw_shape(colour: str, shape: str, size: int = 40) -> Image.Image:
    """A picture of one coloured shape on white."""
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    box = (size // 5, size // 5, size - size // 5, size - size // 5)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        left, top, right, bottom = box
        pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=COLOURS[colour])
    return picture


@pytest.fixture
def tiny_tokenizer() -> TextTokenizer:
    return make_tokenizer()


@pytest.fixture
def tiny_text_encoder() -> TextEncoder:
    return make_text_encoder()


@pytest.fixture
def tiny_clip() -> Clip:
    return make_clip()


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Twelve pictures `colour-shape.png`, one text file that only looks like a picture, one in a sub-folder."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for colour in COLOURS:
        for shape in ("circle", "square", "triangle"):
            place = folder / "more" if shape == "triangle" else folder
            draw_shape(colour, shape).save(place / f"{colour}-{shape}.png")
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
