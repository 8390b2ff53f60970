"""Folders in open_clip's layout: XLM-R, NLLB and SigLIP models, MetaCLIP 2, and every native CLIP.

    open_clip_config.json          {"model_cfg": ..., "preprocess_cfg": ...}; see `openclip_known` where it is absent
    open_clip_model.safetensors    or open_clip_pytorch_model.bin, model.safetensors, or one *.pt
    tokenizer.json                 or the older vocabulary files

Neither open_clip nor timm nor torchvision is needed: names go through the maps of `openclip_text` and `openclip_image`
into transformers' classes. Reference: open_clip 3.3.0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import two_tower
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files import tokenizer_files
from babelclip.models.checkpoints.files.tensors import INDEX, Tensors, open_tensors, weight_files
from babelclip.models.checkpoints.openclip_bpe import MERGES_FILE
from babelclip.models.checkpoints.openclip_image import read_image
from babelclip.models.checkpoints.openclip_known import known_config
from babelclip.models.checkpoints.openclip_text import read_text
from babelclip.models.checkpoints.openclip_tokenizer import SUBFOLDER
from babelclip.models.clip import Clip

NAME = "openclip"
CONFIG = "open_clip_config.json"
# open_clip's own names come first: LAION's repositories also hold the weights in transformers' form under the others.
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_OWN_WEIGHTS = tuple(name + ending for name in _FILES for ending in ("", INDEX))
WEIGHTS = (
    *_OWN_WEIGHTS,
    *(name + ending for name in ("model.safetensors", "pytorch_model.bin") for ending in ("", INDEX)),
)
_LOOSE = (".pt", ".pth")


def recognises(folder: Path) -> bool:
    """Returns whether `folder` is in open_clip's layout: its config, or weights under its own names."""
    return (folder / CONFIG).is_file() or bool(weight_files([item.name for item in folder.iterdir()], _OWN_WEIGHTS))


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load of `towers` reads. Both towers lie in the same weight file."""
    chosen = [CONFIG, *(weight_files(names, WEIGHTS) or loose_weights(names))]
    if towers != "image":
        tokenizer = tokenizer_files.wanted(names)
        # A text encoder's config: beside the weights, or in the sub-folder that `hf_model_name` names.
        configs = [name for name in names if name.count("/") <= 1 and name.split("/")[-1] == "config.json"]
        chosen += [*configs, *tokenizer, *(name for name in names if name.startswith(f"{SUBFOLDER}/"))]
        if not {tokenizer_files.FAST, "merges.txt"} & set(tokenizer):
            chosen.append(MERGES_FILE)
    return [name for name in chosen if name in names]


def load(folder: Path, towers: str, *, tokenizer_folder: Path | None = None) -> Clip:
    """Returns the towers of an open_clip folder, on the CPU, in the stored dtypes; others are neither read nor built.

    Args:
        folder: the model's folder.
        towers: "both", "text" or "image".
        tokenizer_folder: where the tokenizer's files lie; None means the folder or its sub-folder `tokenizer`.

    Raises:
        TokenizerNeededError: the folder's tokenizer is missing or another model's; `repository` has the right one.
        BabelclipError: a file is missing or damaged, no class here builds the tower, or config and tensors do not fit.
    """
    names = [item.name for item in folder.iterdir()]
    if loose_weights(names) and not weight_files(names, WEIGHTS):
        tensors = open_tensors(only_loose(folder))
    else:
        tensors = open_tensors(folder, WEIGHTS)
    path = folder / CONFIG
    content = read_config(path) if path.is_file() else {"model_cfg": _known(tensors, path)}
    model_cfg = content.get("model_cfg", content)
    preprocess_cfg = content.get("preprocess_cfg") or {}
    _check(model_cfg, preprocess_cfg, path)
    return build(folder, model_cfg, preprocess_cfg, tensors, towers, path, tokenizer_folder)


def build(
    folder: Path,
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
    tensors: Tensors,
    towers: str,
    path: Path,
    tokenizer_folder: Path | None = None,
) -> Clip:
    """Returns the towers that `model_cfg` describes, filled from `tensors`; `path` is what messages name as config.

    Raises:
        BabelclipError: no class here builds the tower, or config and tensors do not fit.
    """
    try:
        return Clip(
            space="",
            text=read_text(folder, model_cfg, tensors, path, tokenizer_folder) if towers != "image" else None,
            image=read_image(model_cfg, preprocess_cfg, tensors, path) if towers != "text" else None,
            logit_scale=two_tower.logit_scale(tensors),
            logit_bias=_bias(tensors, model_cfg),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, BabelclipError):
            raise
        raise BabelclipError(
            f"{path} has values of wrong types or impossible sizes ({type(error).__name__}: {error}). "
            "Copy it again from the model's origin."
        ) from error


def _known(tensors: Tensors, path: Path) -> dict[str, Any]:
    config = known_config(tensors)
    if config is None:
        raise BabelclipError(
            f"{path} does not exist, and {tensors.path.name} has the sizes of none of the models that were published "
            f"without it. Copy {CONFIG} from the model's origin, or write one."
        )
    return config


def loose_weights(names: Collection[str]) -> list[str]:
    """Returns the torch files under other names than open_clip's, as its releases have them."""
    return sorted(name for name in names if name.endswith(_LOOSE) and "/" not in name)


def only_loose(folder: Path) -> Path:
    """Returns the one torch file in `folder`.

    Raises:
        BabelclipError: there are several, as the checkpoints of a training are.
    """
    found = loose_weights([item.name for item in folder.iterdir()])
    if len(found) != 1:
        raise BabelclipError(
            f"{folder} holds {len(found)} torch files ({', '.join(found)}); one model lies in one file. "
            "Put each into a folder of its own, with a copy of the other files."
        )
    return folder / found[0]


def _check(model_cfg: Any, preprocess_cfg: Any, path: Path) -> None:
    parts = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    if isinstance(model_cfg, dict):
        parts |= {name: model_cfg.get(name) for name in ("vision_cfg", "text_cfg")}
    wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
    if wrong:
        raise BabelclipError(
            f"{path} has no JSON object under {', '.join(wrong)}; open_clip describes the model there. "
            "Copy it again from the model's origin."
        )
    dim = model_cfg.get("embed_dim")
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise BabelclipError(
            f"{path} states embed_dim = {dim!r}; a whole number of dimensions is expected. "
            "Copy it again from the model's origin."
        )


def _bias(tensors: Tensors, model_cfg: Mapping[str, Any]) -> float | None:
    # A config that states its first value says that the model was trained with one.
    if "logit_bias" in tensors or model_cfg.get("init_logit_bias") is not None:
        return two_tower.scalar(tensors, "logit_bias")
    return None
