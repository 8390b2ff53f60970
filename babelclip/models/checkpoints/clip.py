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

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import two_tower
from babelclip.models.checkpoints.build import read_config, text_tower
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.checkpoints.two_tower import TwoTowers
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer

NAME = "clip"
_TYPES = ("clip", "clip_text_model", "clip_vision_model")
# Bare towers: the text encoder of a diffusion model, for example. They lack the projection into the space.
_BARE = (["CLIPTextModel"], ["CLIPVisionModel"])
_CONTEXT = 77
WRONG_EOS = 2
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
    eos = end_of_text(config)
    return None if eos == WRONG_EOS else eos


def end_of_text(config: TwoTowers) -> int:
    """Returns the id of the end of text that the text config states, else that of its class (49407).

    Raises:
        BabelclipError: it is no whole number.
    """
    return two_tower.whole_number(config.path, config.text or {}, "eos_token_id", _DEFAULT_EOS)


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
    tokenizer = read_tokenizer(folder, max_length=two_tower.context_length(config, _CONTEXT))
    tokenizer.eos_id = last_token(tokenizer, folder) if pooled_id is None else pooled_id
    rows = two_tower.whole_number(config.path, backbone, "vocab_size", _DEFAULT_EOS + 1)
    if tokenizer.eos_id >= rows:
        # No text has it, and pooling at the first of none would take the start of every text, in silence.
        raise BabelclipError(
            f"{config.path} ends texts with eos_token_id = {tokenizer.eos_id}, and its vocabulary has {rows} tokens. "
            "State the id that the tokenizer puts behind a text in text_config."
        )
    return text_tower(
        backbone,
        pooling="eos",
        head=[{"kind": "linear", "out": two_tower.projection_dim(config), "bias": False}],
        tokenizer=tokenizer,
        weights=weights,
    )


def last_token(tokenizer: TextTokenizer, folder: Path) -> int:
    """Returns the id that the tokenizer puts behind every text.

    Raises:
        BabelclipError: it puts none.
    """
    ids = tokenizer([""])[0]
    if not ids:
        raise BabelclipError(
            f"The tokenizer in {folder} puts no end of text behind a text, where CLIP is pooled. Copy its files again "
            "from the model's origin."
        )
    return ids[-1]


def _image(folder: Path, config: TwoTowers, tensors: Tensors) -> ImageEncoder:
    return two_tower.picture_tower(
        folder,
        dict(config.image or {}),
        head=[{"kind": "linear", "out": two_tower.projection_dim(config), "bias": False}],
        weights=two_tower.image_weights(tensors, known=("logit_scale",), alone=config.text is None),
    )
