"""sentence-transformers folders: a list of modules in `modules.json`, each with a folder of its own.

    modules.json                           Transformer, Pooling, then any Dense and Normalize, by class path
    config.json, weights, tokenizer        the Transformer, here or in 0_Transformer/
    sentence_bert_config.json              beside them: max_seq_length, do_lower_case
    1_Pooling/config.json                  one pooling mode, as boolean keys (until 5) or as `pooling_mode`
    2_Dense/config.json, weights           a linear layer and an activation
    config_sentence_transformers.json      prompts; the default one, where it is set, stands before every text

clip-ViT-B-32-multilingual-v1 is such a folder; its image twin clip-ViT-B-32 is one with the single module CLIPModel,
whose sub-folder is read by `clip.py`. Class paths are compared with lists and never imported. What `encode` of
sentence-transformers does with its defaults is done here: the prompt named by `default_prompt_name` is put before the
text, and without that name there is none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import read_json
from babelclip.models.checkpoints import clip, tokenizer_files
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.keymap import Rule, Weights, convert
from babelclip.models.checkpoints.tensors import open_tensors, weight_files
from babelclip.models.checkpoints.text_body import (
    body_config,
    body_tower,
    body_weights,
    refuse_image,
    room,
)
from babelclip.models.clip import Clip
from babelclip.models.head import LayerSpec
from babelclip.models.text import TextEncoder

NAME = "sentence_transformers"
MODULES = "modules.json"
CONFIG = "config.json"
PROMPTS = "config_sentence_transformers.json"
KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "CLIPModel")
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
_MODULE_FOLDER = re.compile(r"\d+_\w+")


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a model of sentence-transformers."""
    return (folder / MODULES).is_file()


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load reads: configs, tokenizer, and the weights in one form."""
    chosen = [name for name in (MODULES, PROMPTS) if name in names]
    parts: dict[str, list[str]] = {}
    for name in names:
        parent, _, file = name.rpartition("/")
        if not parent or _MODULE_FOLDER.fullmatch(parent):
            parts.setdefault(parent, []).append(file)
    for parent, files in parts.items():
        read = [CONFIG, *TRANSFORMER_SETTINGS, "preprocessor_config.json", *weight_files(files)]
        read += tokenizer_files.wanted(files) if towers != "image" else []
        chosen += [f"{parent}/{file}" if parent else file for file in dict.fromkeys(read) if file in files]
    return chosen


def load(folder: Path, towers: str) -> Clip:
    """Returns the text tower of a sentence-transformers folder, or both of one that holds a CLIP, on the CPU.

    Texts are cut at `max_seq_length`, else where tokenizer or body end.

    Raises:
        BabelclipError: a module, pooling or activation is none of those above, the image tower of a text model is
            asked for, a file is missing or damaged, or config and tensors do not fit; it names file and tensors.
    """
    modules = _modules(folder)
    kind, body = modules[0]
    config = read_config(body / CONFIG)
    if kind == "CLIPModel" or config.get("model_type") == "clip":
        if len(modules) > 1:
            raise _misplaced(folder, modules)
        return clip.load(body, towers)
    refuse_image(towers, str(folder), "Its pictures belong to another model, which its card names.")
    if kind != "Transformer" or len(modules) < 2 or modules[1][0] != "Pooling":
        raise _misplaced(folder, modules)
    pooling_path = modules[1][1] / CONFIG
    prompt = _default_prompt(folder)
    pooling = _pooling(pooling_path, has_prompt=bool(prompt))
    weights = body_weights(open_tensors(body))
    head = _head(folder, modules, weights)
    return Clip(space="", text=_text_tower(body, body_config(config, body / CONFIG), weights, pooling, head, prompt))


def _text_tower(
    body: Path, config: dict[str, Any], weights: Weights, pooling: str, head: list[LayerSpec], prompt: str
) -> TextEncoder:
    """Returns the tower with the length, the case and the prompt that the files ask for."""
    path = next((body / name for name in TRANSFORMER_SETTINGS if (body / name).is_file()), None)
    settings = read_config(path) if path is not None else {}
    lower = bool(settings.get("do_lower_case"))
    text = body_tower(
        body,
        config,
        weights,
        pooling=pooling,
        head=head,
        max_length=room(config),
        cleaning="lowercase" if lower else "none",
    )
    stated = settings.get("max_seq_length")
    if isinstance(stated, int) and stated > 0:
        # It comes before the tokenizer's own limit, higher or lower.
        text.tokenizer.max_length = min(stated, room(config))
    text.tokenizer.prefix = prompt.lower() if lower else prompt
    return text


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Returns kind and folder of each module, in the order of `modules.json`."""
    path = folder / MODULES
    content = read_json(path)
    if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
        raise BabelclipError(f"{path} is no list of modules. Copy it again from the model's origin.")
    found = []
    for item in content:
        given, place = str(item.get("type")), str(item.get("path", ""))
        kind = given.rpartition(".")[2]
        if not given.startswith("sentence_transformers.") or kind not in KINDS:
            raise BabelclipError(
                f"{path} asks for the module {given!r}. {did_you_mean(kind, KINDS)} Other modules bring code of their "
                "own, which is never run. Give a model of these modules."
            )
        if place and not _MODULE_FOLDER.fullmatch(place):
            raise BabelclipError(
                f"{path} places a module in {place!r}; a module lies in a sub-folder such as '1_Pooling', or beside "
                "modules.json (''). Copy the folder again from the model's origin."
            )
        found.append((kind, folder / place))
    return found


def _misplaced(folder: Path, modules: list[tuple[str, Path]]) -> BabelclipError:
    listed = ", ".join(kind for kind, _ in modules)
    return BabelclipError(
        f"{folder / MODULES} lists {listed}; a text model is Transformer, Pooling, then any Dense and Normalize, and a "
        "CLIP is one module alone. Give a model of that form."
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
            f"Take default_prompt_name out of {PROMPTS}, or set include_prompt to true if the model was trained so."
        )
    return POOLINGS[modes[0]]


def _head(folder: Path, modules: list[tuple[str, Path]], weights: Weights) -> list[LayerSpec]:
    """Returns the head's layers and adds their tensors to `weights`."""
    head: list[LayerSpec] = []
    for kind, place in modules[2:]:
        if kind == "Normalize":
            head.append({"kind": "normalize"})
        elif kind == "Dense":
            tensors = open_tensors(place, _WEIGHTS)
            layer = convert(tensors, [Rule(r"linear\.(weight|bias)", rf"head.{len(head)}.\1")])
            weights.update(layer)
            weights.origin.update({ours: f"{place.name}: {name}" for ours, name in layer.origin.items()})
            head += _dense(place / CONFIG)
        else:
            raise _misplaced(folder, modules)
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


def _default_prompt(folder: Path) -> str:
    """Returns the prompt that stands before every text, or "" where no default is named."""
    path = folder / PROMPTS
    config = read_config(path) if path.is_file() else {}
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if name is not None and not isinstance(prompt, str):
        raise BabelclipError(
            f"{path} names the default prompt {name!r}, which is not among its prompts. Add it there, or take "
            "default_prompt_name out."
        )
    return prompt or ""
