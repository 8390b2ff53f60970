"""A folder for sentence-transformers: a text tower, a picture tower, or one model that takes texts and pictures.

    modules.json                          what follows what
    config.json, model.safetensors, ...   the Transformer of a single tower, then 1_Pooling/, 2_Dense/, ...
    router_config.json, text_0_Transformer/, image_0_Transformer/, ...      both towers, behind one Router

A text tower alone whose pooling is mean, cls, max or lasttoken has the form that every version from 2 on reads; all
others need 6.2, whose Transformer module can be told which output of the network to take. No folder brings code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, write_json
from babelclip.models.checkpoints.clip import WRONG_EOS
from babelclip.models.checkpoints.text_body import BERT_TYPES, MODEL_TYPES
from babelclip.models.clip import Clip
from babelclip.models.export.pictures import hf_processor
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
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer

# What transformers' AutoModel lists, and under which name.
_TEXT_TYPES = {
    **{name: name for name in (*MODEL_TYPES, "clip_text_model")},
    "metaclip_2_text_model": "clip_text_model",
}
_IMAGE_TYPES = {
    "clip_vision_model": "clip_vision_model",
    "metaclip_2_vision_model": "clip_vision_model",
    "siglip_vision_model": "siglip_vision_model",
}
_POOLINGS = {"mean": "mean", "cls": "cls", "max": "max", "eos": "lasttoken"}
_OLD_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ACTIVATIONS = {
    "tanh": "torch.nn.modules.activation.Tanh",
    "gelu": "torch.nn.modules.activation.GELU",
}
_IDENTITY = "torch.nn.modules.linear.Identity"
_PROMPT = "default"
_CLASSES = {
    "Router": "sentence_transformers.base.modules.router.Router",
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


@dataclass
class _Module:
    """One module: its class, the files of its folder, and its weights."""

    kind: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    tokenizer: TextTokenizer | None = None


def export_sentence_transformers(
    clip: Clip, folder: Path | str, *, dtype: str = "float32", towers: str = "both", normalize: bool = False
) -> Path:
    """Writes `clip` to `folder` for sentence-transformers, replacing it whole, and returns the folder.

    With both towers it is one model: `encode` sends texts and pictures to their own tower.

    Args:
        clip: the model.
        folder: where it goes, with a README.md that says how to load it and what it does otherwise.
        dtype: in which weights are stored: "float32" or "float16". They are computed with in float32.
        towers: "both", "text" or "image".
        normalize: end with a Normalize module, so that `encode` gives rows of unit length, as `clip.encode_text` does.

    Raises:
        BabelclipError: a tower, its pooling, a layer of its head or its preprocessing has no place there; it
            says which.
    """
    text, image = chosen_towers(clip, towers)
    notes: list[str] = []
    routes: dict[str, list[_Module]] = {}
    if text is not None:
        routes["text"] = _text_modules(text, notes)
    if image is not None:
        routes["image"] = _image_modules(image, notes)
    end = [_Module("Normalize", {"config.json": {}})] if normalize else []
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        if len(routes) == 2:
            _write_router(temporary, routes, end, dtype, notes)
        else:
            _write_row(temporary, [*next(iter(routes.values())), *end], dtype, notes)
        prefix = text.tokenizer.prefix if text is not None else ""
        write_json(temporary / "config_sentence_transformers.json", _settings(prefix))
        loads = _example(folder.name, list(routes))
        write_readme(
            temporary,
            clip,
            target="sentence-transformers",
            dtype=dtype,
            towers=list(routes),
            loads=loads,
            notes=notes,
        )
    warn_of(notes, "sentence-transformers")
    return folder


def _text_modules(text: TextEncoder, notes: list[str]) -> list[_Module]:
    kind = model_type(text)
    if kind not in _TEXT_TYPES:
        raise BabelclipError(
            f"The text tower's backbone is {kind}; sentence-transformers 6.2 loads {', '.join(_TEXT_TYPES)} as a text "
            "module. Export to onnx, or save the model in babelclip's own format."
        )
    config = {**backbone_config(text.backbone), "model_type": _TEXT_TYPES[kind]}
    tensors = dict(text.backbone.state_dict())
    transformer = _Module("Transformer", {"config.json": config}, tensors, text.tokenizer)
    pooled = _pooled_by_transformer(text, config, notes)
    if kind in BERT_TYPES and text.pooling != "pooler":
        # The class builds a pooler that nothing reads; zeros keep its loader from drawing random numbers.
        width = text.width
        tensors |= {"pooler.dense.weight": torch.zeros(width, width), "pooler.dense.bias": torch.zeros(width)}
    if pooled:
        transformer.files["sentence_bert_config.json"] = _takes("text", "pooler_output", "sentence_embedding")
        modules = [transformer]
    else:
        transformer.files["sentence_bert_config.json"] = {"max_seq_length": text.tokenizer.max_length}
        modules = [transformer, _pooling(text)]
    return [*modules, *_head_modules(text.head_layers, text.head, text.width, "text")]


def _pooled_by_transformer(text: TextEncoder, config: dict[str, Any], notes: list[str]) -> bool:
    """Returns whether the network's own pooled output is the one that enters the head; sets where it looks for it."""
    if text.pooling == "pooler":
        return True
    eos = text.tokenizer.eos_id
    if text.pooling != "eos" or eos is None:
        return False
    if config["model_type"] == "clip_text_model" and eos != WRONG_EOS:
        config["eos_token_id"] = eos
        return True
    notes.append(
        "A text is pooled at its last token there, in babelclip at the first that is the end of text; they differ for "
        "a text that spells this token out."
    )
    return False


def _image_modules(image: ImageEncoder, notes: list[str]) -> list[_Module]:
    kind = model_type(image)
    if kind not in _IMAGE_TYPES:
        raise BabelclipError(
            f"The picture tower's backbone is {kind}; sentence-transformers loads {', '.join(_IMAGE_TYPES)} without "
            "code of the model's own. Export the text tower alone (towers='text'), or to onnx."
        )
    processor, differences = hf_processor(image.preprocess)
    notes += differences
    config = {**backbone_config(image.backbone), "model_type": _IMAGE_TYPES[kind]}
    files = {
        "config.json": config,
        "preprocessor_config.json": processor,
        # The torchvision form of the processor, taken where torchvision is installed, rounds otherwise.
        "sentence_bert_config.json": {
            **_takes("image", "pooler_output", "sentence_embedding"),
            "processor_kwargs": {"backend": "pil"},
        },
    }
    width = int(config["hidden_size"])
    transformer = _Module("Transformer", files, dict(image.backbone.state_dict()))
    return [transformer, *_head_modules(image.head_layers, image.head, width, "picture")]


def _takes(modality: str, output: str, name: str) -> dict[str, Any]:
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {modality: {"method": "forward", "method_output_name": output}},
        "module_output_name": name,
    }


def _pooling(text: TextEncoder) -> _Module:
    if text.pooling not in _POOLINGS:
        raise BabelclipError(
            f"The text tower pools by {text.pooling!r}; sentence-transformers has {', '.join(_POOLINGS)}. "
            "Save the model in babelclip's own format."
        )
    chosen = _POOLINGS[text.pooling]
    # These keys are read by all versions; 6 has `pooling_mode`, which older ones do not know.
    config = {"word_embedding_dimension": text.width, **{key: mode == chosen for mode, key in _OLD_KEYS.items()}}
    return _Module("Pooling", {"config.json": config})


def _head_modules(layers: Sequence[LayerSpec], head: torch.nn.Module, width: int, tower: str) -> list[_Module]:
    """Returns the head as modules; an activation joins the linear layer before it."""
    modules: list[_Module] = []
    children = list(head.children())
    for number, (layer, child) in enumerate(zip(layers, children, strict=True)):
        kind = layer["kind"]
        if kind == "linear":
            modules.append(_dense(width, layer["out"], dict(child.state_dict())))
            width = layer["out"]
        elif kind in _ACTIVATIONS:
            if not modules or layers[number - 1]["kind"] not in ("linear", "shift"):
                modules.append(_dense(width, width, {"weight": torch.eye(width)}))
            modules[-1].files["config.json"]["activation_function"] = _ACTIVATIONS[kind]
        elif kind == "shift":
            modules.append(_dense(width, width, {"weight": torch.eye(width), "bias": child.state_dict()["bias"]}))
        elif kind == "normalize":
            modules.append(_Module("Normalize", {"config.json": {}}))
        elif kind == "layer_norm" and layer.get("eps", 1e-5) == 1e-5:
            norm = {f"norm.{name}": tensor for name, tensor in child.state_dict().items()}
            modules.append(_Module("LayerNorm", {"config.json": {"dimension": width}}, norm))
        else:
            raise BabelclipError(
                f"Layer {number} of the {tower} tower's head is {layer}; sentence-transformers has linear layers, "
                "tanh, gelu, L2 normalisation, and LayerNorm with eps 1e-5. Export to onnx, or save the model in "
                "babelclip's own format."
            )
    return modules


def _dense(width: int, out: int, tensors: dict[str, torch.Tensor]) -> _Module:
    config = {
        "in_features": width,
        "out_features": out,
        "bias": "bias" in tensors,
        "activation_function": _IDENTITY,
    }
    return _Module("Dense", {"config.json": config}, {f"linear.{name}": tensor for name, tensor in tensors.items()})


def _write_row(folder: Path, modules: list[_Module], dtype: str, notes: list[str]) -> None:
    """Writes modules that follow one another, the Transformer beside modules.json."""
    # Names of before version 6, which it still takes, where older versions compute the same. With a CLIP they would
    # leave the weights random, in silence; the names of today stop them.
    first = modules[0].files
    old = first["sentence_bert_config.json"].keys() == {"max_seq_length"}
    old = old and first["config.json"]["model_type"] in MODEL_TYPES
    listed = []
    for number, module in enumerate(modules):
        place = f"{number}_{module.kind}" if number else ""
        _write_module(folder / place, module, dtype, notes)
        given = f"sentence_transformers.models.{module.kind}" if old else _CLASSES[module.kind]
        listed.append({"idx": number, "name": str(number), "path": place, "type": given})
    write_json(folder / "modules.json", listed)


def _write_router(
    folder: Path, routes: dict[str, list[_Module]], end: list[_Module], dtype: str, notes: list[str]
) -> None:
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for route, modules in routes.items():
        structure[route] = [f"{route}_{number}_{module.kind}" for number, module in enumerate(modules)]
        for place, module in zip(structure[route], modules, strict=True):
            types[place] = _CLASSES[module.kind]
            _write_module(folder / place, module, dtype, notes)
    # Without a task in the key, `encode_query` and `encode_document` take the same ways as `encode`.
    ways = {str((None, route)): route for route in routes}
    parameters = {"default_route": "text", "allow_empty_key": True, "route_mappings": ways}
    content = {"types": types, "structure": structure, "parameters": parameters}
    write_json(folder / "router_config.json", content)
    listed = [{"idx": 0, "name": "0", "path": "", "type": _CLASSES["Router"]}]
    for number, module in enumerate(end, start=1):
        place = f"{number}_{module.kind}"
        _write_module(folder / place, module, dtype, notes)
        listed.append({"idx": number, "name": str(number), "path": place, "type": _CLASSES[module.kind]})
    write_json(folder / "modules.json", listed)


def _write_module(folder: Path, module: _Module, dtype: str, notes: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in module.files.items():
        write_json(folder / name, content)
    if module.tokenizer is not None:
        notes += write_tokenizer(module.tokenizer, folder, prefixes=True)
    if module.tensors:
        save_weights(stored(module.tensors, dtype), folder / "model.safetensors")


def _settings(prefix: str) -> dict[str, Any]:
    """Returns the model's settings: the prefix as the prompt of `encode`, `encode_query` and `encode_document`."""
    names = (_PROMPT, "query", "document") if prefix else ("query", "document")
    return {
        "__version__": {},
        "prompts": dict.fromkeys(names, prefix),
        "default_prompt_name": _PROMPT if prefix else None,
        "similarity_fn_name": "cosine",
    }


def _example(name: str, towers: list[str]) -> str:
    lines = ["from sentence_transformers import SentenceTransformer", "", f'model = SentenceTransformer("{name}")']
    if "text" in towers:
        lines.append('texts = model.encode(["two dogs in the snow", "två hundar i snön"])')
    if "image" in towers:
        lines += ["from PIL import Image", 'pictures = model.encode([Image.open("dogs.jpg")])']
    if len(towers) == 2:
        lines.append("cosines = model.similarity(texts, pictures)  # texts and pictures in calls of their own")
    return "\n".join(lines)
