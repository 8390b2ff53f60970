"""M-CLIP of 2022, for programs that use the package multilingual-clip, and for all that read its folders.

    config.json           `M-CLIP`: the backbone's own fields, `modelBase`, `numDims`, `transformerDimensions`
    model.safetensors     transformer.*, LinearTransformation.*
    tokenizer.json, tokenizer_config.json
    backbone/             config.json, and a weights file without weights

The original class builds its network by fetching the model that `modelBase` names, and only then loads the folder's
own weights over it. Readers that know better, babelclip's among them, need nothing but the folder. For the original
class without a network, `backbone/` stands in for that model:
`MultilingualCLIP.from_pretrained(folder, modelBase=f"{folder}/backbone")`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, write_json
from babelclip.models.checkpoints.text_body import MODEL_TYPES, published_backbones
from babelclip.models.clip import Clip
from babelclip.models.export.readme import write_readme
from babelclip.models.export.stored import (
    backbone_config,
    chosen_towers,
    model_type,
    save_weights,
    stored,
    warn_of,
)
from babelclip.models.export.tokenizers import write_tokenizer
from babelclip.models.text import TextEncoder

BACKBONE = "backbone"
# The original class builds its network by the config that `modelBase` names, so all that shapes it must be the same.
_DECIDES = ("model_type", "vocab_size", "hidden_size", "dim", "num_hidden_layers", "n_layers", "intermediate_size",
            "hidden_dim", "num_attention_heads", "n_heads", "max_position_embeddings", "type_vocab_size",
            "pad_token_id", "hidden_act", "activation", "layer_norm_eps")  # fmt: skip


def export_mclip(
    clip: Clip,
    folder: Path | str,
    *,
    dtype: str = "float32",
    towers: str = "both",
    model_base: str | None = None,
) -> Path:
    """Writes the text tower of `clip` to `folder` in M-CLIP's layout, replacing it whole, and returns the folder.

    Args:
        clip: the model; the layout has no place for a picture tower.
        folder: where it goes, with a README.md that says how to load it.
        dtype: in which weights are stored: "float32" or "float16".
        towers: "text" or "both", which is the same here.
        model_base: `modelBase` of the config, which the original class loads first. None takes the published backbone
            of the same sizes, so that the original class works as it always did; where there is none (another
            vocabulary, for example) the folder's own `backbone`.

    Raises:
        BabelclipError: the tower is no BERT-type with mean pooling and one linear layer with bias, or its texts get a
            prefix; it says which.
    """
    text, _image = chosen_towers(clip, "text" if towers == "both" else towers)
    if text is None:
        raise BabelclipError(
            f"towers={towers!r} was asked for, and the M-CLIP layout holds a text tower alone. Export the picture "
            "tower to openclip or onnx, or leave towers out."
        )
    _check(text)
    config = backbone_config(text.backbone)
    base = model_base or _published(config) or BACKBONE
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        notes = write_tokenizer(text.tokenizer, temporary)
        notes.append(
            "The original class cuts no text: one of more tokens than the backbone has positions is an error there. "
            f"babelclip cuts at {text.tokenizer.max_length} tokens."
        )
        write_json(temporary / "config.json", _config(text, config, base))
        save_weights(stored(_tensors(text), dtype), temporary / "model.safetensors")
        (temporary / BACKBONE).mkdir()
        write_json(temporary / BACKBONE / "config.json", config)
        # One number under a name that no backbone has: transformers refuses a file without any tensor.
        save_weights({"weights_are_in_the_folder_above": torch.zeros(1)}, temporary / BACKBONE / "model.safetensors")
        write_readme(
            temporary,
            clip,
            target="M-CLIP (multilingual-clip 1.0.10)",
            dtype=dtype,
            towers=["text"],
            loads=_example(folder.name),
            notes=notes,
        )
    warn_of(notes[:-1], "M-CLIP")
    return folder


def _check(text: TextEncoder) -> None:
    kind = model_type(text)
    head = [(layer["kind"], layer.get("bias", True)) for layer in text.head_layers]
    wrong = [
        part
        for part, fits in {
            f"the backbone {kind}": kind in MODEL_TYPES,
            f"the pooling {text.pooling!r}": text.pooling == "mean",
            f"the head {text.head_layers}": head in ([("linear", True)], [("linear", False)]),
        }.items()
        if not fits
    ]
    if wrong:
        raise BabelclipError(
            f"This text tower has {', '.join(wrong)}; the M-CLIP layout holds {', '.join(MODEL_TYPES)} with the "
            "mean of the tokens and one linear layer. Export to sentence-transformers, openclip or onnx."
        )


def _published(config: dict[str, Any]) -> str | None:
    """Returns the hub name of the published backbone with this config's sizes."""
    for name, known in published_backbones().items():
        if all(config.get(key) == value for key, value in known.items() if key in _DECIDES):
            return name
    return None


def _config(text: TextEncoder, backbone: dict[str, Any], base: str) -> dict[str, Any]:
    return {
        **backbone,
        "model_type": "M-CLIP",
        "architectures": ["MultilingualCLIP"],
        "modelBase": base,
        "transformerDimensions": text.width,
        "numDims": text.embed_dim,
    }


def _tensors(text: TextEncoder) -> dict[str, torch.Tensor]:
    tensors = {f"transformer.{name}": tensor for name, tensor in text.backbone.state_dict().items()}
    if model_type(text) != "distilbert":
        # The published files have a pooler that nothing reads; without one the original class draws random numbers.
        tensors["transformer.pooler.dense.weight"] = torch.zeros(text.width, text.width)
        tensors["transformer.pooler.dense.bias"] = torch.zeros(text.width)
    head = text.head[0].state_dict()
    tensors["LinearTransformation.weight"] = head["weight"]
    tensors["LinearTransformation.bias"] = head.get("bias", torch.zeros(text.embed_dim))
    return tensors


def _example(name: str) -> str:
    return f"""
import babelclip

clip = babelclip.load("{name}", towers="text")
vectors = clip.encode_text(["två hundar i snön"], normalize=False)

# The original class (transformers 4). Without modelBase= it first fetches the backbone that config.json names.
from multilingual_clip.pt_multilingual_clip import MultilingualCLIP
from transformers import AutoTokenizer

model = MultilingualCLIP.from_pretrained("{name}", modelBase="{name}/{BACKBONE}")
same = model.forward(["två hundar i snön"], AutoTokenizer.from_pretrained("{name}"))
"""
