"""OpenAI's original files (`ViT-B-32.pt`, `RN50x4.pt`, ...): one TorchScript archive, without any config.

Sizes are read from the shapes, as OpenAI's own code does it; heads are 64 wide. The activation shows in no tensor: an
archive of this kind is OpenAI's, so it is quick_gelu. A plain state dict may be LAION's (gelu) or a copy of OpenAI's
(quick_gelu), and a wrong guess would only make results worse in silence: it is refused, with the config file that would
make it readable; but for the sizes that only LAION published (`openclip_known`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import openclip
from babelclip.models.checkpoints.files import tokenizer_files, torch_archive
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from babelclip.models.checkpoints.openclip_bpe import MERGES_FILE
from babelclip.models.checkpoints.openclip_known import known_config
from babelclip.models.clip import Clip

NAME = "openai"
_HEAD_WIDTH = 64
# LAION's larger towers have heads of other widths: ViT-H, ViT-g, ViT-bigG by the width of the tower.
_LAION_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
_RESNET_STRIDE = 32


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a torch file and no config that describes it."""
    names = [item.name for item in folder.iterdir()]
    return bool(openclip.loose_weights(names)) and not {"config.json", openclip.CONFIG, "modules.json"} & set(names)


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load of `towers` reads."""
    tokenizer = [*tokenizer_files.wanted(names), MERGES_FILE] if towers != "image" else []
    return [name for name in (*openclip.loose_weights(names), *tokenizer) if name in names]


def load(folder: Path, towers: str) -> Clip:
    """Returns the towers of an original archive, on the CPU, in half precision as stored; others are not built.

    Raises:
        BabelclipError: there are several files, the file is a plain state dict (the message holds the config that it
            needs), it is no CLIP, or the text tower is asked for and the folder has no tokenizer.
    """
    path = openclip.only_loose(folder)
    tensors = open_tensors(path)
    known = known_config(tensors)
    if known is not None:
        return openclip.build(folder, known, {}, tensors, towers, path)
    model_cfg = inferred_config(tensors)
    if not (torch_archive.is_archive(path) and torch_archive.read_archive(path).scripted):
        raise BabelclipError(_needs_config(path, model_cfg))
    return openclip.build(folder, {**model_cfg, "quick_gelu": True}, {}, tensors, towers, path)


def inferred_config(tensors: Tensors) -> dict[str, Any]:
    """Returns open_clip's `model_cfg` as the shapes tell it, without the activation.

    Raises:
        BabelclipError: a tensor is missing that tells a size.
    """
    try:
        vision = _vit(tensors) if "visual.proj" in tensors else _resnet(tensors)
        context_length, width = tensors.shape("positional_embedding")
        text = {
            "context_length": context_length,
            "vocab_size": tensors.shape("token_embedding.weight")[0],
            "width": width,
            "heads": width // _HEAD_WIDTH,
            "layers": _count(tensors, "transformer.resblocks."),
        }
        return {"embed_dim": tensors.shape("text_projection")[1], "vision_cfg": vision, "text_cfg": text}
    except (KeyError, IndexError, ValueError) as error:
        raise BabelclipError(
            f"{tensors.path} is no CLIP whose sizes its tensors tell ({type(error).__name__}: {error}). OpenAI's "
            "original archives and plain open_clip checkpoints are. Add the model's open_clip_config.json."
        ) from error


def _vit(tensors: Tensors) -> dict[str, Any]:
    width, _, _, patch = tensors.shape("visual.conv1.weight")
    positions = tensors.shape("visual.positional_embedding")[0]
    head_width = _LAION_HEAD_WIDTHS.get(width, _HEAD_WIDTH)
    config = {
        "image_size": patch * round((positions - 1) ** 0.5),
        "layers": _count(tensors, "visual.transformer.resblocks."),
        "width": width,
        "patch_size": patch,
    }
    if head_width != _HEAD_WIDTH:
        config["head_width"] = head_width
    inner = tensors.shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0]
    return config if inner == 4 * width else {**config, "mlp_ratio": round(inner / width, 4)}


def _resnet(tensors: Tensors) -> dict[str, Any]:
    positions = tensors.shape("visual.attnpool.positional_embedding")[0]
    return {
        "image_size": _RESNET_STRIDE * round((positions - 1) ** 0.5),
        "layers": [_count(tensors, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
        "width": tensors.shape("visual.layer1.0.conv1.weight")[0],
        "patch_size": None,
    }


def _count(tensors: Tensors, prefix: str) -> int:
    """Returns how many blocks lie below `prefix`."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def _needs_config(path: Path, model_cfg: dict[str, Any]) -> str:
    content = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}})
    return (
        f"{path} is a plain state dict without a config: its tensors tell the sizes and not the activation, and both "
        f"kinds occur. Write the following into {openclip.CONFIG} beside it, as it stands for LAION's models (gelu), "
        f'with "quick_gelu": true added to model_cfg for OpenAI\'s and others trained like them:\n{content}'
    )
