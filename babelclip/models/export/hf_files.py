"""The files beside the weights that transformers reads: tokenizer and picture preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from babelclip.errors import BabelclipError
from babelclip.files import write_json
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf
from babelclip.models.preprocess import Preprocess
from babelclip.models.tokenization import TextTokenizer

# Pillow's numbers of its filters, as `resample` stores them.
_RESAMPLE = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
_SPECIAL = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}


def save_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as safetensors, marked as PyTorch's, which transformers asks for."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, path, metadata={"format": "pt"})
    # safetensors creates files that only their owner may read; a model folder is made to be shared.
    path.chmod(0o644)


def save_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json of an XLM-R tokenizer into an existing folder.

    Raises:
        BabelclipError: texts are cleaned or prefixed first, which these files cannot say.
    """
    if tokenizer.cleaning != "none" or tokenizer.prefix:
        raise BabelclipError(
            f"This tokenizer cleans texts by {tokenizer.cleaning!r} and puts {tokenizer.prefix!r} before them; the "
            "files of transformers hold neither. Save the model in babelclip's own format."
        )
    content = json.loads(tokenizer.to_json())
    # Who loads the file sets these by tokenizer_config.json; frozen here they would be cut twice.
    content["truncation"] = content["padding"] = None
    tokens = {token["id"]: token["content"] for token in content["added_tokens"]}
    settings = {key: token for key, token in _SPECIAL.items() if token in tokens.values()}
    if tokenizer.pad_id in tokens:
        settings["pad_token"] = tokens[tokenizer.pad_id]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.max_length, **settings}
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)


def preprocessor_config(preprocess: Preprocess) -> dict[str, Any]:
    """Returns the content of `preprocessor_config.json` for a CLIP-type processor.

    Raises:
        BabelclipError: transformers' processor does something else to a picture, however little.
    """
    sizes = {"height": preprocess.crop, "width": preprocess.crop}
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocess.resize},
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_center_crop": True,
        "crop_size": sizes,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if preprocess_from_hf(content) != preprocess:
        raise BabelclipError(
            f"{preprocess} is not what transformers' CLIP processor does, so its pixels would differ from those that "
            "the picture tower was made for. Save the model in babelclip's own format."
        )
    return content
