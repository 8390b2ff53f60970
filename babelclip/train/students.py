"""Students: any text encoder with the pooling and the projection that a recipe asks for.

A student is a babelclip model, a published one of any layout, or a plain transformers folder: XLM-R, BERT, DistilBERT,
ModernBERT, the encoder of NLLB. The projection lies inside the encoder (`TextEncoder.head`), never on the loss: what
is saved and exported is what was trained. Entry points: `load_student`, and `open_student` for trainings that keep the
model's own head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files import tokenizer_files
from babelclip.models.checkpoints.files.tensors import weight_files
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.checkpoints.text_body import MOST_TOKENS, room
from babelclip.models.clip import Clip
from babelclip.models.head import LayerSpec
from babelclip.models.text import TextEncoder, bare, parsed_backbone
from babelclip.storage import is_url, local
from babelclip.train import losses
from babelclip.train.recipe import Student

_CONFIG = "config.json"
# Encoder and decoder in one model; only of this one babelclip can build the encoder alone again.
_ENCODER_OF = "m2m_100"


def load_student(settings: Student, *, embed_dim: int, seed: int = 0, targets: int = 0) -> Clip:
    """Returns the student of a recipe, its new layers drawn from `seed`, on the CPU in float32; it has no space.

    Args:
        settings: the recipe's [student].
        embed_dim: dimension of the targets.
        seed: of a new head.
        targets: how many targets there are, for messages.

    Raises:
        BabelclipError: the model cannot be read, or its dimension, length or kind does not fit; both sizes are named.
    """
    clip = open_student(settings.model)
    if clip.text is None:
        raise BabelclipError(f"{settings.model} has no text tower. Give [student] the folder of a text encoder.")
    text = fit_student(clip.text, settings, embed_dim=embed_dim, seed=seed, targets=targets)
    return Clip(space="", text=text, languages=clip.languages, name=clip.name, attribution=clip.attribution)


def fit_student(
    text: TextEncoder, settings: Student, *, embed_dim: int, seed: int = 0, targets: int = 0
) -> TextEncoder:
    """Returns the tower with the pooling, head and longest text of [student]; it shares the backbone with `text`.

    A head is new where the settings name one, or an `embed_dim` that the tower does not have, or where there is none.

    Raises:
        BabelclipError: the tower's own head, or `embed_dim` of the settings, has another dimension than the targets, or
            `max_length` is beyond the backbone's positions.
    """
    if settings.embed_dim not in (None, embed_dim):
        raise BabelclipError(losses.dim_mismatch((targets, embed_dim), settings.embed_dim or 0))
    _set_length(text, settings.max_length)
    pooling = settings.pooling or text.pooling
    kind = settings.head
    if not kind and (not text.head_layers or settings.embed_dim not in (None, text.embed_dim)):
        kind = "linear"
    if not kind and text.embed_dim != embed_dim:
        raise BabelclipError(losses.dim_mismatch((targets, embed_dim), text.embed_dim))
    if not kind and pooling == text.pooling:
        return text
    backbone = text.backbone
    if text.pooling == "pooler" != pooling and isinstance(getattr(backbone, "pooler", None), nn.Module):
        # Nothing reads it any more, and a saved model without it builds none.
        setattr(backbone, "pooler", None)  # noqa: B010
    head = head_of(kind, text.width, embed_dim, _epsilon(backbone)) if kind else text.head_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fitted = TextEncoder(backbone, pooling=pooling, head=head, tokenizer=text.tokenizer)
    if not kind:
        fitted.head.load_state_dict(text.head.state_dict())
    return fitted.eval()


def with_pooling(text: TextEncoder, pooling: str) -> TextEncoder:
    """Returns the tower with another pooling and its own head; it shares the backbone. "" keeps the tower as it is."""
    if pooling in ("", text.pooling):
        return text
    fitted = TextEncoder(text.backbone, pooling=pooling, head=text.head_layers, tokenizer=text.tokenizer)
    fitted.head.load_state_dict(text.head.state_dict())
    return fitted.eval()


def head_of(kind: str, width: int, embed_dim: int, epsilon: float = 1e-5) -> list[LayerSpec]:
    """Returns the layers of a head from H = `width` to D = `embed_dim`.

    `linear` is M-CLIP's, `tanh+linear` its variant with a tanh layer in between, `norm+linear` that of AltCLIP's
    stage 1 (`pre_LN` and `transformation`, with the backbone's epsilon), `mlp` has one hidden layer of width H.
    Without biases, `linear-nobias` is NLLB-CLIP's and `mlp-nobias`, with a hidden width of (H + D) / 2, that of
    OpenCLIP's XLM-R: what open_clip can hold behind an encoder of transformers.
    """
    if kind.endswith("-nobias"):
        first: list[LayerSpec] = [{"kind": "linear", "out": (width + embed_dim) // 2, "bias": False}, {"kind": "gelu"}]
        return [*(first if kind == "mlp-nobias" else []), {"kind": "linear", "out": embed_dim, "bias": False}]
    before: dict[str, list[LayerSpec]] = {
        "linear": [],
        "tanh+linear": [{"kind": "linear", "out": embed_dim}, {"kind": "tanh"}],
        "mlp": [{"kind": "linear", "out": width}, {"kind": "gelu"}],
        "norm+linear": [{"kind": "layer_norm", "eps": epsilon}],
    }
    return [*before[kind], {"kind": "linear", "out": embed_dim}]


def open_student(model: str) -> Clip:
    """Returns the text tower of a folder or name as it is: what babelclip reads itself, else a transformers class.

    Raises:
        BabelclipError: nothing reads it; see `load_encoder`.
    """
    import babelclip

    model = str(local(model)) if is_url(model) else model
    if Path(model).is_dir():
        folder = Path(model)
        return load_encoder(folder) if _is_plain(folder) else babelclip.load(folder, towers="text", device="cpu")
    try:
        return babelclip.load(model, towers="text", device="cpu")
    except BabelclipError:
        downloaded = _downloaded(model)
        if downloaded is None:
            raise
    return load_encoder(downloaded)


def _is_plain(folder: Path) -> bool:
    """Returns whether no reader of babelclip knows the folder, but transformers may."""
    from babelclip.models.checkpoints import reader_of

    try:
        reader_of(folder)
    except BabelclipError:
        return (folder / _CONFIG).is_file() and "model_type" in read_config(folder / _CONFIG)
    return False


def _downloaded(name: str) -> Path | None:
    """Returns a hub repository of a transformers class on this disk; None where there is none."""
    from babelclip.models.checkpoints.hub.repository import open_repository

    if name.count("/") != 1:
        return None
    try:
        repository = open_repository(name)
        if not _is_plain(repository.small_files()):
            return None
    except BabelclipError:
        return None
    wanted = (_CONFIG, *weight_files(repository.names), *tokenizer_files.wanted(repository.names))
    return repository.download([file for file in wanted if file in repository.names])


def load_encoder(folder: Path) -> Clip:
    """Returns the encoder in a folder of transformers, masked mean, without a head, on the CPU in float32.

    Raises:
        BabelclipError: transformers does not know the class without code of the model, it is no encoder that can be
            built alone, or weights are missing.
    """
    import transformers

    config = read_config(folder / _CONFIG)
    kind = str(config.get("model_type"))
    try:
        _, model_class = parsed_backbone({"model_type": kind})
    except (ValueError, KeyError) as error:
        raise BabelclipError(
            f"{folder} is a {kind}, which the installed transformers {transformers.__version__} does not know without "
            "running the model's own code. Take a student of a known class, for example xlm-roberta or modernbert."
        ) from error
    if config.get("is_encoder_decoder") and kind != _ENCODER_OF:
        raise BabelclipError(
            f"{folder} is a {kind}, encoder and decoder in one. A student is an encoder: XLM-R, BERT, DistilBERT, "
            "ModernBERT, or NLLB, whose encoder is taken. Give the folder of one of these."
        )
    backbone = _weighted(folder, model_class, kind)
    parsed: Any = backbone.config
    positions = room({"max_position_embeddings": MOST_TOKENS, **parsed.to_dict(), "model_type": kind})
    tokenizer = read_tokenizer(
        folder,
        max_length=min(MOST_TOKENS, positions),
        language="en" if kind == _ENCODER_OF else None,
        pad_id=parsed.pad_token_id,
        model_type=kind,
    )
    return Clip(space="", text=TextEncoder(backbone, pooling="mean", head=[], tokenizer=tokenizer).eval())


def _weighted(folder: Path, model_class: Any, kind: str) -> nn.Module:
    import inspect

    from safetensors import SafetensorError

    without = "add_pooling_layer" in inspect.signature(model_class).parameters
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            **({"add_pooling_layer": False} if without else {}),
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BabelclipError(
            f"{folder} cannot be read as a {kind}: {reason}. Copy it again from its origin."
        ) from error
    prefix = "encoder." if kind == _ENCODER_OF else ""
    missing = sorted(name for name in info["missing_keys"] if name.startswith(prefix))
    if missing:
        raise BabelclipError(
            f"{folder} lacks {len(missing)} tensors of a {kind}, first {missing[0]}; they would be random. "
            "Copy the model again from its origin."
        )
    return model.get_encoder() if kind == _ENCODER_OF else bare(model)  # type: ignore[no-any-return]


def _set_length(text: TextEncoder, tokens: int) -> None:
    if not tokens:
        return
    config: Any = text.backbone.config
    most = room({"max_position_embeddings": tokens, **config.to_dict()})
    if tokens > most:
        raise BabelclipError(
            f"student.max_length = {tokens}, but the backbone has room for {most} tokens, special ones included: "
            f"set max_length = {most} or less in [student]."
        )
    text.tokenizer.max_length = tokens


def _epsilon(backbone: nn.Module) -> float:
    return float(getattr(backbone.config, "layer_norm_eps", 1e-5))
