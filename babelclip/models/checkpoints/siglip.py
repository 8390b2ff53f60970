"""SigLIP folders in transformers layout: SigLIP and its multilingual sister, SigLIP 2 at a fixed resolution, NaFlex.

See `two_tower` for the files. Text: a transformer that sees every position, padding too -> last position -> a linear
layer; both are the backbone's own pooler. Image: vision transformer -> attention pooling. There is no projection
beside these. Pictures are squashed to a square; with `model_type` "siglip2" (NaFlex) they keep their proportions and
become at most `max_num_patches` (256) patches, see `patches`. A score is `cosine * logit_scale + logit_bias`, then a
sigmoid.

Texts are padded to the position table (64) and the padding is attended: with less the vectors are wrong, not merely
rounded. What is done to texts first is told by the tokenizer, for two families share a `model_type`:

* `SiglipTokenizer` (T5 sentencepiece): lower case, no ASCII punctuation, white space collapsed. The tokenizer of
  transformers does this itself. Cleaning "siglip". One difference is meant: a text that spells `</s>` or `<unk>` is
  text here, and a token there.
* Gemma's tokenizer (SigLIP 2): lower case. It was trained so, and the published scores need it (German R@1 16.9
  without, 76.6 with). transformers' `Siglip2Tokenizer` (5.x) does it; its `GemmaTokenizer`, which the folders of fixed
  resolution name, does not, and leaves it to the caller. Training lower-cased ASCII letters only (`tf.strings.lower`
  in big_vision); transformers and open_clip lower-case every script, which is what is followed here. open_clip also
  drops punctuation. Cleaning "lowercase".
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.files import read_json
from babelclip.models.checkpoints import two_tower
from babelclip.models.checkpoints.build import text_tower
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.checkpoints.two_tower import TwoTowers
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Preprocess
from babelclip.models.text import TextEncoder

NAME = "siglip"
_FAMILIES = ("siglip", "siglip2")
_CONTEXT = 64
_SENTENCEPIECE = "spiece.model"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_CLEANING = {"Siglip": "siglip", "Siglip2": "lowercase", "Gemma": "lowercase"}
_NAFLEX_PROCESSOR = "Siglip2ImageProcessor"
_SCALARS = ("logit_scale", "logit_bias")


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a SigLIP or SigLIP 2, or one tower of it, as its config says."""
    return _family(folder) in _FAMILIES


def _family(folder: Path) -> str:
    return two_tower.model_type(folder).removesuffix("_text_model").removesuffix("_vision_model")


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load of `towers` reads."""
    return two_tower.wanted(names, towers)


def load(folder: Path, towers: str) -> Clip:
    """Returns the towers of a SigLIP folder, on the CPU; a tower not asked for is neither read nor built.

    Raises:
        BabelclipError: a file is missing or damaged, the tower asked for is not there, or config and tensors do not
            fit; it names file and tensors.
    """
    config = two_tower.read_towers(folder, _family(folder), towers)
    tensors = open_tensors(folder)
    whole = config.text is not None and config.image is not None
    return Clip(
        space="",
        text=_text(folder, config, tensors) if towers != "image" and config.text else None,
        image=_image(folder, config, tensors) if towers != "text" and config.image else None,
        logit_scale=two_tower.logit_scale(tensors) if whole else None,
        logit_bias=two_tower.scalar(tensors, "logit_bias") if whole else None,
    )


def _text(folder: Path, config: TwoTowers, tensors: Tensors) -> TextEncoder:
    # The class's own default ids lie outside of these vocabularies, which transformers warns of; nothing reads them.
    backbone: dict[str, Any] = {**(config.text or {}), "bos_token_id": None, "eos_token_id": None}
    length = two_tower.context_length(config, _CONTEXT)
    settings = _tokenizer_config(folder)
    if settings.get("pad_token") is None:
        raise BabelclipError(
            f"{folder / _TOKENIZER_CONFIG} names no pad_token. SigLIP reads padding like any token, so it cannot be "
            "guessed. Copy the file again from the model's origin."
        )
    return text_tower(
        backbone,
        pooling="pooler",
        head=[],
        tokenizer=read_tokenizer(folder, max_length=length, cleaning=_cleaning(folder, settings), pad_to=length),
        weights=two_tower.text_weights(tensors, known=_SCALARS, alone=config.image is None),
    )


def _image(folder: Path, config: TwoTowers, tensors: Tensors) -> ImageEncoder:
    backbone = dict(config.image or {})
    if backbone.get("vision_use_head", True) is not True:
        raise BabelclipError(
            f"{config.path} describes a SigLIP picture tower without its pooling head (vision_use_head), which gives "
            "no vector of the embedding space. Give the folder of the whole model."
        )
    naflex = backbone["model_type"] == "siglip2_vision_model"
    weights = two_tower.image_weights(
        tensors, known=_SCALARS, alone=config.text is None, inside="transformer." if naflex else ""
    )
    prepared = _naflex_preprocess if naflex else preprocess_from_hf
    return two_tower.picture_tower(folder, backbone, head=[], weights=weights, preprocess=prepared)


def _naflex_preprocess(settings: dict[str, Any], *, default_size: int | None = None) -> Preprocess:
    """Returns the preprocessing of transformers' `Siglip2ImageProcessor`; it has no fixed size."""
    kind = str(settings.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
    if kind != _NAFLEX_PROCESSOR:
        raise BabelclipError(
            f"The image processor {settings.get('image_processor_type')!r} does not belong to SigLIP 2 NaFlex, whose "
            f"processor is {_NAFLEX_PROCESSOR}. Copy preprocessor_config.json again from the model's origin."
        )
    patch, most = settings.get("patch_size", 16), settings.get("max_num_patches", 256)
    if not all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in (patch, most)):
        raise BabelclipError(
            f"The preprocessing file says patch_size = {patch!r} and max_num_patches = {most!r}; both must be whole "
            "numbers above 0. Copy it again from the model's origin."
        )
    # The rest of the file has SigLIP's keys and defaults, but for the filter.
    shared = {"resample": 2, **settings, "image_processor_type": "SiglipImageProcessor", "size": patch}
    fixed = preprocess_from_hf(shared, default_size=default_size)
    return dataclasses.replace(fixed, fit="patches", most_patches=most)


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / _TOKENIZER_CONFIG
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _cleaning(folder: Path, settings: dict[str, Any]) -> str:
    """Returns the rule of the tokenizer's family: by its class, or by the vocabulary where the class says nothing."""
    stated = str(settings.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    if stated in _CLEANING:
        return _CLEANING[stated]
    # transformers 5 saves some tokenizers under a class name that says nothing.
    if (folder / _SENTENCEPIECE).is_file():
        return _CLEANING["Siglip"]
    content = read_json(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else {}
    kind = content.get("model", {}).get("type") if isinstance(content, dict) else None
    if kind not in ("Unigram", "BPE"):
        raise BabelclipError(
            f"{folder} holds a SigLIP whose tokenizer is neither SiglipTokenizer nor Gemma's ({stated or kind}), so "
            "what it does to texts first is not known. Copy the tokenizer's files again from the model's origin."
        )
    return _CLEANING["Siglip" if kind == "Unigram" else "Gemma"]
