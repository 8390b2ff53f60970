"""OpenAI-type CLIP folders in transformers layout: openai/clip-vit-*, LAION's conversions, MetaCLIP 1, fine-tunes.

See `two_tower` for the files. Text: causal transformer -> the first end-of-text token -> `text_projection`. Image:
vision transformer -> class token -> `visual_projection`. The activation is the config's own: quick_gelu in OpenAI's
towers, gelu in LAION's.

Configs from before July 2023 say `eos_token_id: 2`, which is wrong; transformers then pools where the id is highest,
and the highest id is the true end of text. The tokenizer's own last token is that id, so both forms come out the same.
Texts get no cleaning before the tokenizer, whose own rules lower-case them; they are cut at the length of the position
table (77), as the processor does with `truncation=True`.

`CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection` folders hold one tower and no `logit_scale`.
"""

from __future__ import annotations

from pathlib import Path

from babelclip.models.checkpoints import two_tower
from babelclip.models.checkpoints.build import read_config, text_tower
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.checkpoints.two_tower import TwoTowers
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

NAME = "clip"
_TYPES = ("clip", "clip_text_model", "clip_vision_model")
# Bare towers: the text encoder of a diffusion model, for example. They lack the projection into the space.
_BARE = (["CLIPTextModel"], ["CLIPVisionModel"])
_CONTEXT = 77
_WRONG_EOS = 2
_DEFAULT_EOS = 49407


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a CLIP, or one tower with its projection, as its config says."""
    if two_tower.model_type(folder) not in _TYPES:
        return False
    return read_config(folder / two_tower.CONFIG).get("architectures") not in _BARE


wanted = two_tower.wanted


def load(folder: Path, towers: str) -> Clip:
    """Returns the towers of a CLIP folder, on the CPU; a tower not asked for is neither read nor built.

    Raises:
        BabelclipError: a file is missing or damaged, the tower asked for is not there, or config and tensors do not
            fit; it names file and tensors.
    """
    config = two_tower.read_towers(folder, "clip", towers)
    return load_towers(folder, config, towers, pooled_id=_pooled_id(config))


def _pooled_id(config: TwoTowers) -> int | None:
    """Returns the id at which the text is pooled; None for the tokenizer's own end of text."""
    eos = (config.text or {}).get("eos_token_id", _DEFAULT_EOS)
    return None if eos == _WRONG_EOS else int(eos)


def load_towers(folder: Path, config: TwoTowers, towers: str, *, pooled_id: int | None) -> Clip:
    """Returns the towers of a CLIP-type folder whose config is read (also MetaCLIP 2).

    Args:
        folder: the model's folder.
        config: what its config.json says.
        towers: "both", "text" or "image".
        pooled_id: the id at which texts are pooled; None for the last token that the tokenizer puts.

    Raises:
        BabelclipError: as `load`.
    """
    tensors = open_tensors(folder)
    whole = config.text is not None and config.image is not None
    return Clip(
        space="",
        text=_text(folder, config, tensors, pooled_id) if towers != "image" and config.text else None,
        image=_image(folder, config, tensors) if towers != "text" and config.image else None,
        logit_scale=two_tower.logit_scale(tensors) if whole else None,
    )


def _text(folder: Path, config: TwoTowers, tensors: Tensors, pooled_id: int | None) -> TextEncoder:
    backbone = dict(config.text or {})
    weights = two_tower.text_weights(tensors, known=("logit_scale",), alone=config.image is None)
    tokenizer = read_tokenizer(folder, max_length=int(backbone.get("max_position_embeddings", _CONTEXT)))
    tokenizer.eos_id = tokenizer([""])[0][-1] if pooled_id is None else pooled_id
    return text_tower(
        backbone,
        pooling="eos",
        head=[{"kind": "linear", "out": two_tower.projection_dim(config), "bias": False}],
        tokenizer=tokenizer,
        weights=weights,
    )


def _image(folder: Path, config: TwoTowers, tensors: Tensors) -> ImageEncoder:
    return two_tower.picture_tower(
        folder,
        dict(config.image or {}),
        head=[{"kind": "linear", "out": two_tower.projection_dim(config), "bias": False}],
        weights=two_tower.image_weights(tensors, known=("logit_scale",), alone=config.text is None),
    )
