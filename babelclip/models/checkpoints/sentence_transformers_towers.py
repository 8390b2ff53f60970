"""The towers of a sentence-transformers folder, each a row of modules: Transformer, Pooling, then the head.

Since version 5.4 a Transformer can be told which output of its network to take. With `pooler_output` it is the pooled
vector itself and no Pooling follows: CLIP's text tower, and every picture tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.checkpoints import two_tower
from babelclip.models.checkpoints.build import read_config, text_tower
from babelclip.models.checkpoints.clip import WRONG_EOS
from babelclip.models.checkpoints.files.tensors import open_tensors
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.checkpoints.keymap import Rule, Weights, convert
from babelclip.models.checkpoints.text_body import BERT_TYPES, body_config, body_tower, body_weights, room
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

CONFIG = "config.json"
# The first that is there counts; the later ones are of the library's first versions.
TRANSFORMER_SETTINGS = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_xlm-roberta_config.json",
)  # fmt: skip
POOLINGS = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "eos"}
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS: dict[str, list[LayerSpec]] = {
    "torch.nn.modules.linear.Identity": [],
    "torch.nn.modules.activation.Tanh": [{"kind": "tanh"}],
    "torch.nn.modules.activation.GELU": [{"kind": "gelu"}],
}
# Of the library's own, where a file says nothing.
_DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CLIP_TEXT = "clip_text_model"
_IMAGE_FAMILIES = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}

Modules = Sequence[tuple[str, Path]]


def settings_of(body: Path) -> dict[str, Any]:
    """Returns what the Transformer module in `body` is told: length, case, and which output it takes."""
    path = next((body / name for name in TRANSFORMER_SETTINGS if (body / name).is_file()), None)
    return read_config(path) if path is not None else {}


def modality_of(body: Path) -> str:
    """Returns "text" or "image", what the Transformer module in `body` takes; those of before 5.4 take texts.

    Raises:
        BabelclipError: it takes both, or something else.
    """
    stated = settings_of(body).get("modality_config", {"text": {}})
    if not isinstance(stated, dict) or list(stated) not in (["text"], ["image"]):
        raise BabelclipError(
            f"{body} is a module for {', '.join(map(str, stated)) or 'nothing'}; one for text or one for image is read "
            "here. Give a model of such modules."
        )
    return str(next(iter(stated)))


def read_text_tower(modules: Modules, prompt: str) -> TextEncoder:
    """Returns the text tower of a row of modules, with the length, the case and the prompt that the files ask for.

    Raises:
        BabelclipError: the row is no text tower's, or a module, pooling or activation is not read here.
    """
    body = modules[0][1]
    config = read_config(body / CONFIG)
    inside = _is_pooled(body)
    if not inside and (len(modules) < 2 or modules[1][0] != "Pooling"):
        raise misplaced(modules)
    is_clip = config.get("model_type") == _CLIP_TEXT
    if inside:
        pooling = "eos" if is_clip else "pooler"
    else:
        pooling = _pooling(modules[1][1] / CONFIG, has_prompt=bool(prompt))
    tail = modules[1 if inside else 2 :]
    read = _clip_tower if is_clip else _bert_tower
    return read(body, config, pooling, tail, modules, prompt)


def read_image_tower(modules: Modules) -> ImageEncoder:
    """Returns the picture tower of a row of modules.

    Raises:
        BabelclipError: the row is no picture tower's, its network is not read here, or files are missing or damaged.
    """
    body = modules[0][1]
    kind = read_config(body / CONFIG).get("model_type")
    if kind not in _IMAGE_FAMILIES or not _is_pooled(body):
        raise BabelclipError(
            f"{body} is a picture module of the type {kind!r} that gives "
            f"{'its pooled output' if _is_pooled(body) else 'one vector a patch'}; read here are "
            f"{', '.join(_IMAGE_FAMILIES)} with pooler_output. Give a model of these."
        )
    config = two_tower.read_towers(body, _IMAGE_FAMILIES[kind], "image")
    weights = two_tower.image_weights(open_tensors(body), alone=True)
    head = _head(modules, modules[1:], weights)
    return two_tower.picture_tower(body, dict(config.image or {}), head=head, weights=weights)


def _is_pooled(body: Path) -> bool:
    """Returns whether the module's output is one vector an input."""
    settings = settings_of(body)
    outputs = {
        str(way.get("method_output_name")) if way.get("method", "forward") == "forward" else str(way)
        for way in settings.get("modality_config", {}).values()
        if isinstance(way, dict) and way
    } or {"last_hidden_state"}
    if outputs == {"pooler_output"} and settings.get("module_output_name") == "sentence_embedding":
        return True
    if outputs == {"last_hidden_state"}:
        return False
    raise BabelclipError(
        f"{body} takes {', '.join(sorted(outputs))} of its network; last_hidden_state, or pooler_output as the "
        "sentence_embedding, is read here. Give a model of such modules."
    )


def _bert_tower(
    body: Path, config: dict[str, Any], pooling: str, tail: Modules, modules: Modules, prompt: str
) -> TextEncoder:
    tensors = open_tensors(body)
    described = body_config(config, body / CONFIG)
    weights = body_weights(tensors)
    if pooling == "pooler":
        for part in ("weight", "bias"):
            name = f"pooler.dense.{part}"
            if described["model_type"] in BERT_TYPES and name in tensors:
                weights[f"backbone.{name}"], weights.origin[f"backbone.{name}"] = tensors[name], name
    head = _head(modules, tail, weights)
    settings = settings_of(body)
    lower = bool(settings.get("do_lower_case"))
    text = body_tower(
        body,
        described,
        weights,
        pooling=pooling,
        head=head,
        max_length=room(described),
        cleaning="lowercase" if lower else "none",
    )
    stated = settings.get("max_seq_length")
    if isinstance(stated, int) and stated > 0:
        # It comes before the tokenizer's own limit, higher or lower.
        text.tokenizer.max_length = min(stated, room(described))
    text.tokenizer.prefix = prompt.lower() if lower else prompt
    return text


def _clip_tower(
    body: Path, config: dict[str, Any], pooling: str, tail: Modules, modules: Modules, prompt: str
) -> TextEncoder:
    towers = two_tower.read_towers(body, "clip", "text")
    backbone = dict(towers.text or {})
    weights = two_tower.text_weights(open_tensors(body), alone=True)
    head = _head(modules, tail, weights)
    eos = config.get("eos_token_id")
    tokenizer = read_tokenizer(
        body,
        max_length=two_tower.context_length(towers, 77),
        eos_id=eos if _is_pooled(body) and isinstance(eos, int) and eos != WRONG_EOS else None,
    )
    tokenizer.prefix = prompt
    return text_tower(backbone, pooling=pooling, head=head, tokenizer=tokenizer, weights=weights)


def misplaced(modules: Modules) -> BabelclipError:
    """Returns the error for modules in an order that makes no tower."""
    listed = ", ".join(kind for kind, _ in modules)
    return BabelclipError(
        f"{modules[0][1]} lists {listed}; a text model is Transformer, Pooling, then any Dense, LayerNorm and "
        "Normalize, and a CLIP is one module alone. Give a model of that form."
    )


def _pooling(path: Path, has_prompt: bool) -> str:
    """Returns our name of the pooling mode that a config states in either form."""
    config = read_config(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in POOLINGS:
        raise BabelclipError(
            f"{path} asks for the pooling {modes!r}; one of {', '.join(POOLINGS)} is read here. Give a model that "
            "pools so, or save this one with another pooling."
        )
    if has_prompt and config.get("include_prompt") is False:
        raise BabelclipError(
            f"{path} leaves the prompt out of the pooling (include_prompt is false), which is not done here. "
            "Take default_prompt_name out of config_sentence_transformers.json, or set include_prompt to true if the "
            "model was trained so."
        )
    return POOLINGS[modes[0]]


def _head(modules: Modules, tail: Modules, weights: Weights) -> list[LayerSpec]:
    """Returns the head's layers and adds their tensors to `weights`."""
    head: list[LayerSpec] = []
    for kind, place in tail:
        if kind == "Normalize":
            head.append({"kind": "normalize"})
        elif kind in ("Dense", "LayerNorm"):
            tensors = open_tensors(place, _WEIGHTS)
            inner = "linear" if kind == "Dense" else "norm"
            layer = convert(tensors, [Rule(rf"{inner}\.(weight|bias)", rf"head.{len(head)}.\1")])
            weights.update(layer)
            weights.origin.update({ours: f"{place.name}: {name}" for ours, name in layer.origin.items()})
            head += _dense(place / CONFIG) if kind == "Dense" else [{"kind": "layer_norm"}]
        else:
            raise misplaced(modules)
    return head


def _dense(path: Path) -> list[LayerSpec]:
    config = read_config(path)
    activation = str(config.get("activation_function", _DEFAULT_ACTIVATION))
    if activation not in ACTIVATIONS:
        raise BabelclipError(
            f"{path} asks for the activation {activation!r}. {did_you_mean(activation, ACTIVATIONS)} "
            "Names are never imported; give a model with one of these."
        )
    names = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if config.get("use_residual") or names != {"sentence_embedding"}:
        raise BabelclipError(
            f"{path} describes a Dense with a residual or on other features than the sentence embedding, which is not "
            "read here. Give a model with plain Dense layers."
        )
    if not isinstance(config.get("out_features"), int):
        raise BabelclipError(f"{path} has no whole number out_features. Copy it again from the model's origin.")
    return [
        {"kind": "linear", "out": config["out_features"], "bias": config.get("bias", True)},
        *ACTIVATIONS[activation],
    ]
