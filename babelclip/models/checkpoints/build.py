"""Towers from a config and converted weights: what every reader ends with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from babelclip.errors import BabelclipError, shown
from babelclip.files import read_object
from babelclip.models.checkpoints.keymap import Weights, fill
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder, build_image_backbone
from babelclip.models.preprocess import Preprocess
from babelclip.models.quantize import allocate
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.models.tokenization import TextTokenizer


def text_tower(
    backbone: dict[str, Any],
    *,
    pooling: str,
    head: list[LayerSpec],
    tokenizer: TextTokenizer,
    weights: Weights,
    token_head: list[LayerSpec] | None = None,
    int8: bool = False,
) -> TextEncoder:
    """Returns a text tower filled from `weights` (names `backbone.*`, `head.N.*`, `token_head.N.*`).

    Args:
        backbone: a transformers config with `model_type`.
        pooling: `mean`, `cls`, `eos`, `max` or `pooler` (see `pool`).
        head: layers from the pooled vector to the space (see `build_head`).
        tokenizer: texts to ids.
        weights: every tensor of the tower, no other.
        token_head: layers for token states, where the checkpoint has them (AltDiffusion-m18).
        int8: the weights are those of a tower that `quantize` has rounded.

    Raises:
        BabelclipError: the config does not build, or weights are missing, left over or of another shape.
    """
    _refuse_deep(backbone, weights)
    _refuse_numbers(backbone, weights)
    with uninitialised():
        try:
            built = build_text_backbone(backbone, pooler=pooling == "pooler")
            text = TextEncoder(built, pooling=pooling, head=head, tokenizer=tokenizer, token_head=token_head)
        except BabelclipError:
            raise
        except CONFIG_FAULTS as error:
            raise _unbuildable(weights.path, backbone, error) from error
    fill(allocate(text) if int8 else text, weights)
    return text


def image_tower(
    backbone: dict[str, Any], *, head: list[LayerSpec], preprocess: Preprocess, weights: Weights
) -> ImageEncoder:
    """Returns an image tower filled from `weights` (names `backbone.*`, `head.N.*`).

    Raises:
        BabelclipError: the config does not build, or weights are missing, left over or of another shape.
    """
    _refuse_deep(backbone, weights)
    _refuse_numbers(backbone, weights)
    with uninitialised():
        try:
            image = ImageEncoder(build_image_backbone(backbone), head=head, preprocess=preprocess)
        except BabelclipError:
            raise
        except CONFIG_FAULTS as error:
            raise _unbuildable(weights.path, backbone, error) from error
    fill(image, weights)
    return image


# What transformers and torch raise for a config of wrong types or impossible sizes; for some, transformers raises an
# error of huggingface_hub that is a plain Exception.
CONFIG_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, StrictDataclassError,
    TypeError, ValueError,
)  # fmt: skip


# No shape of a tensor shows them, so a wrong number is met at the first text.
_HEADS = ("num_attention_heads", "n_heads", "encoder_attention_heads")


def _refuse_deep(backbone: dict[str, Any], weights: Weights) -> None:
    """Refuses more layers than there are tensors: a billion take hours to build before the first turns out missing."""
    for key in ("num_hidden_layers", "n_layers", "encoder_layers"):
        layers = backbone.get(key)
        if isinstance(layers, int) and layers > len(weights):
            raise BabelclipError(
                f"{weights.path}: its config asks for {layers} layers ({key}), and the tower has {len(weights)} "
                "tensors in all. Weights and config must come from one model: copy the folder again from its origin."
            )


def _refuse_numbers(backbone: Mapping[str, Any], weights: Weights) -> None:
    """Refuses rates, epsilons and heads that are none: not every transformers looks; torch does at the first text."""
    for key, value in backbone.items():
        if isinstance(value, dict):
            _refuse_numbers(value, weights)
        elif key.endswith(("_eps", "_epsilon")) and not (_is_number(value) and 0 < value <= 1):
            raise _not_a_number(weights.path, key, value, "a positive number up to 1, for example 1e-5")
        elif key in _HEADS and not (_is_number(value) and isinstance(value, int) and value >= 1):
            raise _not_a_number(weights.path, key, value, "a whole number from 1, for example 12")
        elif key.endswith(("dropout", "_dropout_prob", "layerdrop")) and value is not None:
            if not (_is_number(value) and 0 <= value <= 1):
                raise _not_a_number(weights.path, key, value, "a number from 0 to 1")


def _is_number(value: Any) -> bool:
    # Not NaN: comparisons with it are false.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _not_a_number(path: Path, key: str, value: Any, allowed: str) -> BabelclipError:
    return BabelclipError(
        f"{path}: its config says {key} = {shown(repr(value), 60)}; it is {allowed}. Copy config.json again from the "
        "model's origin."
    )


def _unbuildable(path: Path, config: dict[str, Any], error: Exception) -> BabelclipError:
    reason = " ".join(str(error).split())[:200]
    return BabelclipError(
        f"{path}: its config asks for a {config.get('model_type')} that cannot be built "
        f"({type(error).__name__}: {reason}). Copy config.json again from the model's origin."
    )


def uninitialised() -> AbstractContextManager[Any]:
    """Returns a context in which modules are built without drawing random weights; `fill` then checks all are set."""
    from transformers.initialization import no_init_weights

    context: AbstractContextManager[Any] = no_init_weights()
    return context


def read_config(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file of a model folder.

    Raises:
        BabelclipError: it is missing or holds something else.
    """
    return read_object(path)
