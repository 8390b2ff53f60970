"""sentence-transformers folders: a list of modules in `modules.json`, each with a folder of its own.

    modules.json                           Transformer, Pooling, then any Dense, LayerNorm and Normalize, by class path
    config.json, weights, tokenizer        the Transformer, here or in 0_Transformer/
    sentence_bert_config.json              beside them: max_seq_length, do_lower_case
    1_Pooling/config.json                  one pooling mode, as boolean keys (until 5) or as `pooling_mode`
    2_Dense/config.json, weights           a linear layer and an activation
    config_sentence_transformers.json      prompts; the default one, where it is set, stands before every text
    router_config.json                     since 5.4: a Router sends texts and pictures to rows of such modules

clip-ViT-B-32-multilingual-v1 is such a folder; its image twin clip-ViT-B-32 is one with the single module CLIPModel,
whose sub-folder is read by `clip.py`. Class paths are compared with lists and never imported. What `encode` of
sentence-transformers does with its defaults is done here: the prompt named by `default_prompt_name` is put before the
text, and without that name there is none.
"""

from __future__ import annotations

import re
from pathlib import Path

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import read_json
from babelclip.models.checkpoints import clip
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files import tokenizer_files
from babelclip.models.checkpoints.files.tensors import weight_files
from babelclip.models.checkpoints.sentence_transformers_towers import (
    CONFIG,
    TRANSFORMER_SETTINGS,
    misplaced,
    modality_of,
    read_image_tower,
    read_text_tower,
)
from babelclip.models.checkpoints.text_body import refuse_image
from babelclip.models.checkpoints.two_tower import PREPROCESSOR, PROCESSOR
from babelclip.models.clip import Clip

NAME = "sentence_transformers"
MODULES = "modules.json"
ROUTER = "router_config.json"
PROMPTS = "config_sentence_transformers.json"
KINDS = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "CLIPModel", "Router")
_MODULE_FOLDER = re.compile(r"(?:[A-Za-z]\w*_)?\d+_\w+")


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a model of sentence-transformers."""
    return (folder / MODULES).is_file()


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load reads: configs, tokenizer, and the weights in one form."""
    chosen = [name for name in (MODULES, ROUTER, PROMPTS) if name in names]
    parts: dict[str, list[str]] = {}
    for name in names:
        parent, _, file = name.rpartition("/")
        if not parent or _MODULE_FOLDER.fullmatch(parent):
            parts.setdefault(parent, []).append(file)
    for parent, files in parts.items():
        read = [CONFIG, *TRANSFORMER_SETTINGS, PREPROCESSOR, PROCESSOR, *weight_files(files)]
        read += tokenizer_files.wanted(files) if towers != "image" else []
        chosen += [f"{parent}/{file}" if parent else file for file in dict.fromkeys(read) if file in files]
    return chosen


def load(folder: Path, towers: str) -> Clip:
    """Returns the towers of a sentence-transformers folder, on the CPU: one, or both of a CLIP or behind a Router.

    Texts are cut at `max_seq_length`, else where tokenizer or body end.

    Raises:
        BabelclipError: a module, pooling or activation is none of those above, a tower that is not there is asked
            for, a file is missing or damaged, or config and tensors do not fit; it names file and tensors.
    """
    modules = _modules(folder)
    kind, body = modules[0]
    if kind == "Router":
        return _from_routes(folder, _routes(folder, modules), towers)
    config = read_config(body / CONFIG)
    if kind == "CLIPModel" or config.get("model_type") == "clip":
        if len(modules) > 1:
            raise misplaced(modules)
        return clip.load(body, towers)
    if kind != "Transformer":
        raise misplaced(modules)
    if modality_of(body) == "image":
        return _from_routes(folder, {"image": modules}, towers)
    refuse_image(towers, str(folder), "Its pictures belong to another model, which its card names.")
    return _from_routes(folder, {"text": modules}, towers)


def _from_routes(folder: Path, routes: dict[str, list[tuple[str, Path]]], towers: str) -> Clip:
    """Returns the towers asked for; a model that has one gives that one for "both"."""
    if towers != "both" and towers not in routes:
        raise BabelclipError(
            f"{folder} takes {' and '.join(routes)}, so towers={towers!r} cannot be loaded from it. "
            f'Load towers="{next(iter(routes))}".'
        )
    with_text, with_image = (tower in routes and towers in ("both", tower) for tower in ("text", "image"))
    return Clip(
        space="",
        text=read_text_tower(routes["text"], _default_prompt(folder)) if with_text else None,
        image=read_image_tower(routes["image"]) if with_image else None,
    )


def _routes(folder: Path, modules: list[tuple[str, Path]]) -> dict[str, list[tuple[str, Path]]]:
    """Returns the modules that texts go through, and those of pictures; what follows the Router belongs to both.

    Raises:
        BabelclipError: a route is no row of modules, or two take the same input (query and document).
    """
    path = folder / ROUTER
    content = read_config(path)
    types, structure = content.get("types"), content.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict) or not structure:
        raise BabelclipError(f"{path} has no types and structure. Copy it again from the model's origin.")
    routes: dict[str, list[tuple[str, Path]]] = {}
    for name, places in structure.items():
        if not isinstance(places, list) or not places:
            raise BabelclipError(f"{path} has an empty route {name!r}. Copy it again from the model's origin.")
        row = [_module(path, folder, str(types.get(place)), str(place)) for place in places]
        if row[0][0] != "Transformer":
            raise misplaced(row)
        modality = modality_of(row[0][1])
        if modality in routes:
            raise BabelclipError(
                f"{path} has several routes for {modality} ({', '.join(structure)}); a model with one for texts and "
                "one for pictures is read here. Load this one with sentence-transformers itself."
            )
        routes[modality] = row + modules[1:]
    return routes


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Returns kind and folder of each module, in the order of `modules.json`."""
    path = folder / MODULES
    content = read_json(path)
    if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
        raise BabelclipError(f"{path} is no list of modules. Copy it again from the model's origin.")
    return [_module(path, folder, str(item.get("type")), str(item.get("path", ""))) for item in content]


def _module(path: Path, folder: Path, given: str, place: str) -> tuple[str, Path]:
    """Returns kind and folder of one module; `path` is the file that lists it.

    Raises:
        BabelclipError: it is none of KINDS, or lies elsewhere than beside that file or in a sub-folder.
    """
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
    return kind, folder / place


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
