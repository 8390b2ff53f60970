"""What a run may move: layers named in words, parameter groups, dropout.

Locked means: no gradient, eval mode, no optimiser state, not in checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.train.recipe import Student, Train

# Where transformers classes, and our own towers, keep their stack of layers.
_LAYER_PATHS = (
    "encoder.layer",
    "encoder.layers",
    "transformer.layer",
    "layers",
    "vision_model.encoder.layers",
    "text_model.encoder.layers",
    "blocks",
)

# What layers of transformers call a probability of dropout that they keep as a number.
_DROPOUTS = {"dropout", "attention_dropout", "activation_dropout"}


def trained_layers(text: str, available: int, setting: str) -> int | None:
    """Returns how many of the `available` top layers train; 0 = the head only, None = everything.

    Args:
        text: `all` or `free`, `head`, or `last N layers`.
        available: layers of the tower.
        setting: name of the setting, for the error.

    Raises:
        BabelclipError: `text` has another form, or names more layers than there are.
    """
    words = " ".join(text.lower().split())
    if words in ("all", "free"):
        return None
    if words == "head":
        return 0
    found = re.fullmatch(r"last (?:(\d+) )?(?:layer|block)s?", words)
    if not found:
        raise BabelclipError(
            f'{setting} = {text!r} is not known. Allowed: "all", "head", or "last N layers", as in "last 4 layers".'
        )
    count = int(found[1] or 1)
    if not 1 <= count <= available:
        raise BabelclipError(f"{setting} = {text!r}, but the encoder has {available} layers: name 1 to {available}.")
    return count


def encoder_layers(backbone: nn.Module) -> nn.ModuleList | nn.Sequential:
    """Returns the stack of layers of a backbone, input first.

    Raises:
        BabelclipError: the backbone keeps none where it is looked for.
    """
    for path in _LAYER_PATHS:
        module: Any = backbone
        for name in path.split("."):
            module = getattr(module, name, None)
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            return module
    raise BabelclipError(
        f'{type(backbone).__name__} has no known stack of layers, so "last N layers" cannot be found. '
        'Train "all" or "head" instead.'
    )


def select_parameters(
    tower: nn.Module, trainable: str, *, setting: str, freeze_embeddings: bool = False
) -> dict[str, nn.Parameter]:
    """Returns the parameters of a tower that train, by name, and sets `requires_grad` of all of them accordingly.

    `last N layers` takes the backbone from that layer on (a final norm included) and the head.

    Args:
        tower: has `backbone` and `head`.
        trainable: `locked`, `head`, `last N layers`, or `all` (also `free`).
        setting: name of the setting, for errors.
        freeze_embeddings: leaves the word embeddings out; they are most of a multilingual model's weights.

    Raises:
        BabelclipError: `trainable` has another form, or nothing is left to train.
    """
    if trainable.strip().lower() == "locked":
        tower.requires_grad_(False)
        return {}
    named = dict(tower.named_parameters())
    chosen = {name for name in named if name.startswith("head.")}
    backbone = tower.get_submodule("backbone")
    layers = None if trainable.strip().lower() in ("all", "free", "head") else encoder_layers(backbone)
    count = trained_layers(trainable, len(layers) if layers is not None else 0, setting)
    if count is None:
        chosen = set(named)
    elif layers is not None:
        chosen |= _from_layer_on(named, backbone, layers[len(layers) - count])
    if freeze_embeddings:
        frozen = {id(parameter) for parameter in _word_embeddings(backbone).parameters()}
        chosen = {name for name in chosen if id(named[name]) not in frozen}
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    if not chosen:
        raise BabelclipError(f"{setting} = {trainable!r} leaves nothing to train: the head has no weights.")
    return {name: parameter for name, parameter in named.items() if name in chosen}


def student_parameters(student: nn.Module, settings: Student) -> dict[str, nn.Parameter]:
    """Returns what [student] says that trains of a text encoder, by name; see `select_parameters`.

    Raises:
        BabelclipError: as `select_parameters`, or `student.trainable` is "locked": a tower that is trained alone moves.
    """
    chosen = select_parameters(
        student,
        settings.trainable,
        setting="student.trainable",
        freeze_embeddings=settings.freeze_embeddings,
    )
    if not chosen:
        raise BabelclipError(
            f'student.trainable = {settings.trainable!r} leaves nothing to train. Allowed: "all", "head", or "last N '
            'layers".'
        )
    return chosen


def _from_layer_on(named: Mapping[str, nn.Parameter], backbone: nn.Module, layer: nn.Module) -> set[str]:
    first = next(layer.parameters())
    inside = {id(parameter) for parameter in backbone.parameters()}
    names = [name for name, parameter in named.items() if id(parameter) in inside]
    start = next(place for place, name in enumerate(names) if named[name] is first)
    return set(names[start:])


def _word_embeddings(backbone: nn.Module) -> nn.Module:
    find: Any = getattr(backbone, "get_input_embeddings", None)
    if find is None:
        raise BabelclipError(
            f"{type(backbone).__name__} names no word embeddings: set freeze_embeddings = false in [student]."
        )
    module: nn.Module = find()
    return module


def parameter_groups(parameters: Mapping[str, nn.Parameter], settings: Train) -> list[dict[str, Any]]:
    """Returns AdamW groups: head and rest with their peak learning rates, matrices with decay and vectors without.

    Biases and norms are not decayed: they hold no capacity to restrain. Each group carries `names`, in the order of
    `params`, so that a checkpoint can be checked against them.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        in_head, is_matrix = name.split(".")[0] == "head" or ".head." in name, parameter.ndim >= 2
        head_lr = settings.lr if settings.head_lr is None else settings.head_lr
        group = groups.setdefault(
            (in_head, is_matrix),
            {
                "params": [],
                "names": [],
                "peak_lr": head_lr if in_head else settings.lr,
                "weight_decay": settings.weight_decay if is_matrix else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def set_dropout(module: nn.Module, probability: float) -> None:
    """Sets the probability of every dropout layer; 0 puts the module into eval mode, which regression needs.

    Dropout changes the mean of a regressed vector: AltCLIP trains its student with dropout 0 (arXiv 2211.06679).
    Layers of some backbones (NLLB, CLIP, ModernBERT's attention) keep theirs as a number and not as a module; it is set
    as well, or else it would stay what the checkpoint was trained with.

    Raises:
        BabelclipError: the probability is not below 1.
    """
    if not 0 <= probability < 1:
        raise BabelclipError(f"dropout = {probability}; it must be at least 0 and below 1.")
    module.train(probability > 0)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
        for name in _DROPOUTS & vars(part).keys():
            if isinstance(getattr(part, name), float):
                setattr(part, name, probability)
    lock_still(module)


def lock_still(module: nn.Module) -> None:
    """Puts every part without a trainable weight into eval mode: no dropout, no moving statistics in locked layers."""
    for part in module.modules():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            part.eval()


def count_weights(parameters: Mapping[str, nn.Parameter]) -> int:
    """Returns the number of single weights in the parameters."""
    return sum(parameter.numel() for parameter in parameters.values())


def trained_state(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Returns the tensors that training moves, by their names in `parameters`: weights, and buffers beside them.

    A batch norm that trains also moves its running mean; those buffers lie in modules that own a trained weight.
    """
    tensors: dict[str, torch.Tensor] = {name: parameter.detach() for name, parameter in parameters.items()}
    trained = {id(parameter) for parameter in parameters.values()}
    for path, module in model.named_modules():
        if any(id(parameter) in trained for parameter in module.parameters(recurse=False)):
            buffers = module.named_buffers(recurse=False)
            tensors |= {f"{path}.{name}": b for name, b in buffers if name not in module._non_persistent_buffers_set}
    return tensors
